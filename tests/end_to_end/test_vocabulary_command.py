"""`trimformer vocabulary` and `prune --vocabulary` on tiny models: what they write loads, and can be made smaller."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from commands import Run, assert_mistake, rows, write
from conftest import TinyBert
from trimformer.model import checkpoint
from trimformer.model.manifest import read_manifest

TOKENS = 150
FRESH = """
import sys, torch, trimformer, transformers
folder, text = sys.argv[1:]
model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
batch = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
print(model(**batch).logits.tolist())
"""


@pytest.fixture
def model(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    folder = checkpoint.write(tiny_bert(num_labels=2), tmp_path / "dense", tokenizer=tokenizer)
    (folder / "modules.json").write_text("[]")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    train = [row | {"sentence": str(row["sentence"]).replace("river", "tree")} for row in rows(60, seed=0)]
    write(folder / "train.jsonl", train)
    write(folder / "validation.jsonl", rows(12, seed=1))
    return folder


def answer(folder: Path, text: str) -> torch.Tensor:
    small = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        found: torch.Tensor = small(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits
    return found


def test_a_trimmed_model_answers_as_before_prunes_and_trims_again(run: Run, model: Path, data: Path, tmp_path: Path):
    trimmed, pruned, again = (tmp_path / name for name in ("trimmed", "pruned", "again"))
    train, validation = data / "train.jsonl", data / "validation.jsonl"
    result = run("vocabulary", model, "--texts", train, "--held-out", validation, "--out", trimmed, "--json")
    assert result.code == 0, result.err
    manifest = read_manifest(trimmed)
    assert json.loads(result.out) == manifest | {"out": str(trimmed)}
    facts = manifest["vocabulary"]
    assert (facts["texts"], facts["proved_texts"], facts["other_texts"]) == (f"…/{train.name}", 60, 0)
    assert facts["tokens"]["after"] == len(AutoTokenizer.from_pretrained(trimmed)) < facts["tokens"]["before"]
    assert facts["largest_difference"] == 0
    assert facts["held_out"]["otherwise"] > 0
    assert (trimmed / "modules.json").is_file()
    text = json.loads(train.read_text().splitlines()[0])["sentence"]
    assert torch.equal(answer(trimmed, text), answer(model, text))
    shape = ("--task", "sst2", "--data", data, "--flops", 0.5, "--calibration-tokens", TOKENS)
    assert run("prune", trimmed, *shape, "--out", pruned).code == 0
    assert len(AutoTokenizer.from_pretrained(pruned)) == facts["tokens"]["after"]
    (tmp_path / "few.txt").write_text(text)
    assert run("vocabulary", pruned, "--texts", tmp_path / "few.txt", "--out", again).code == 0
    after = read_manifest(again)
    assert after["budget"] == read_manifest(pruned)["budget"]
    assert after["vocabulary"]["tokens"]["after"] < facts["tokens"]["after"]
    assert after["parameters"]["pruned"] < read_manifest(pruned)["parameters"]["pruned"]
    assert torch.equal(answer(again, text), answer(pruned, text))


def test_the_line_that_loads_it_is_that_of_its_kind(run: Run, model: Path, data: Path, tmp_path: Path):
    texts, out = ("--texts", data / "train.jsonl"), tmp_path / "trimmed"
    said = run("vocabulary", model, *texts, "--out", out).out
    assert f'load it: from sentence_transformers import CrossEncoder; model = CrossEncoder("{out}")' in said
    (model / "modules.json").unlink()
    said = run("vocabulary", model, *texts, "--out", out, "--overwrite").out
    (line,) = (line.removeprefix("load it: ") for line in said.splitlines() if line.startswith("load it: "))
    loaded: dict[str, Any] = {}
    exec(line, loaded)  # noqa: S102  # our own line
    assert type(loaded["model"].model).__name__ == "BertForSequenceClassification"


def test_prune_keeps_the_words_of_the_calibration_rows(run: Run, model: Path, data: Path, tmp_path: Path):
    out = tmp_path / "small"
    options = ("--task", "sst2", "--data", data, "--flops", 0.5, "--calibration-tokens", TOKENS, "--out", out)
    result = run("prune", model, *options, "--vocabulary", "calibration")
    assert result.code == 0, result.err
    tokenizer, facts = AutoTokenizer.from_pretrained(out), read_manifest(out)
    assert "river" not in tokenizer.get_vocab()
    assert "tree" in tokenizer.get_vocab()
    assert facts["vocabulary"]["tokens"]["after"] == len(tokenizer)
    assert facts["vocabulary"]["held_out"]["texts"] == 12
    before = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    after = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    assert facts["parameters"] == {"dense": before.num_parameters(), "pruned": after.num_parameters()}
    assert facts["bytes"] == {"before": 4 * before.num_parameters(), "after": 4 * after.num_parameters()}
    assert "tokens known" in result.out
    assert "file of the weights" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--texts": "no.txt"}, "no file or folder"),
        ({"--minimum-count": 0}, "--minimum-count 0"),
        ({"--characters": "few"}, "--characters few"),
        ({"--held-out": "no.txt"}, "no file or folder"),
        ({"--out": "dense"}, "never replaced"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(changes, says, run: Run, model: Path, data: Path, tmp_path: Path):
    given = {"--texts": data / "train.jsonl", "--out": "small"} | changes
    given["--out"] = tmp_path / str(given["--out"])
    result = run("vocabulary", model, *(part for pair in given.items() for part in pair))
    assert_mistake(result, says)
    assert not (tmp_path / "small").exists()


@pytest.mark.slow
def test_a_fresh_process_reads_it(run: Run, model: Path, data: Path, tmp_path: Path):
    out = tmp_path / "trimmed"
    assert run("vocabulary", model, "--texts", data / "train.jsonl", "--out", out).code == 0
    text = json.loads((data / "train.jsonl").read_text().splitlines()[0])["sentence"]
    fresh = subprocess.run([sys.executable, "-c", FRESH, out, text], capture_output=True, text=True, check=True)
    assert torch.allclose(torch.tensor(json.loads(fresh.stdout)), answer(model, text), atol=1e-6)
