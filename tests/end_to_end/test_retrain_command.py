"""`trimformer retrain`: a method that trains, by command, leaves a checkpoint that loads, and says what it cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from commands import Run, assert_mistake, rows, write
from conftest import TinyBert
from trimformer import load_model
from trimformer.model import checkpoint
from trimformer.model.manifest import read_manifest


@pytest.fixture
def asked(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> list[object]:
    """A fine-tuned model and its rows, and as little training as there can be."""
    model = checkpoint.write(tiny_bert(num_labels=2), tmp_path / "dense", tokenizer=tokenizer)
    data = tmp_path / "data"
    data.mkdir()
    write(data / "train.jsonl", rows(40, seed=0))
    write(data / "validation.jsonl", rows(12, seed=1))
    return ["retrain", model, "--task", "sst2", "--data", data, "--train", "max_steps=1", "--train", "rows=24"]


def test_a_method_that_trains_leaves_a_checkpoint(run: Run, asked: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    few = ["--set", "widths=1,0.5", "--set", "depths=1,0.5"]
    result = run(*asked, "--method", "dynabert", *few, "--flops", 0.6, "--out", out, "--json")
    assert result.code == 0, result.err
    facts = read_manifest(out)
    assert facts["budget"]["reached"] <= 0.6
    assert {"rewiring", "width", "depth", "choosing"} <= facts["recipe"]["cpu_seconds"].keys()
    assert json.loads(result.out)["budget"] == facts["budget"]
    assert load_model(str(out)).config.num_labels == 2
    card = (out / "README.md").read_text()
    for stage, rows_trained in (("width", 24), ("depth", 24)):
        assert facts["recipe"]["trainings"][stage]["rows"] == rows_trained
        assert f"Training, stage {stage}: {rows_trained} rows, " in card
    assert "| training rows |" in card
    assert not out.with_name("out.unfinished").exists()


def test_mistakes_are_a_line(run: Run, asked: list[object], tmp_path: Path) -> None:
    out = ["--out", tmp_path / "out"]
    assert_mistake(run(*asked, *out), "say how small", "--flops 0.6")
    assert_mistake(run(*asked, *out, "--flops", 0.01), "the smallest sub-network keeps")
    assert_mistake(run(*asked, *out, "--flops", 0.6, "--method", "dynaber"), "dynabert")


@pytest.fixture
def untrained(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> str:
    """A model that has no head yet, for the same rows."""
    return str(checkpoint.write(tiny_bert("MaskedLM"), tmp_path / "pretrained", tokenizer=tokenizer))


@pytest.mark.slow
def test_several_sizes_of_a_pretrained_model(run: Run, asked: list[object], untrained: str, tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "sizes.html"
    command = ["retrain", untrained, *asked[2:], "--method", "p_pruning", "--set", "method=magnitude"]
    command += ["--set", "calibration_tokens=100", "--flops", "0.7,0.5", "--out", out]
    result = run(*command, "--report", page)
    assert result.code == 0, result.err
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"flops-0.7", "flops-0.5"}
    reached = [read_manifest(out / f"flops-{share}")["budget"]["reached"] for share in (0.7, 0.5)]
    assert 0.5 < reached[0] <= 0.7
    assert reached[1] <= 0.5
    assert all(f"{100 * share:.1f}" in result.out for share in reached), result.out
    assert f"{out}/…" in result.out
    assert "earlier run" not in result.out
    assert "flops" in page.read_text().lower()
    assert_mistake(run(*command), "exists", "--overwrite")


def test_what_starts_from_a_finetuned_model_refuses_one_without_a_head(
    run: Run, asked: list[object], untrained: str, tmp_path: Path
) -> None:
    result = run("retrain", untrained, *asked[2:], "--flops", 0.6, "--out", tmp_path / "out")
    assert_mistake(result, "dynabert needs a model fine-tuned for sst2", "trimformer finetune")
    assert not (tmp_path / "out").exists()


def test_rows_without_labels_are_enough_to_polish(
    run: Run, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = checkpoint.write(tiny_bert(None), tmp_path / "encoder", tokenizer=tokenizer)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(row["sentence"] for row in rows(40, seed=0)))
    asked = ["retrain", model, "--task", "text", "--data", texts, "--out", tmp_path / "out", "--flops", 0.6]
    result = run(*asked, "--method", "polish", "--set", "calibration_tokens=100", "--train", "max_steps=2", "--json")
    assert result.code == 0, result.err
    chosen = json.loads(result.out)["recipe"]["chosen"]
    assert chosen["cosine_to_dense_after"] >= chosen["cosine_to_dense_before"]
    assert_mistake(run(*asked, "--method", "dynabert"), "give labels", "--column")
