"""`--column` on every command that reads rows: a file with its own separator and names is read as if it had ours."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from commands import Run, assert_mistake, rows
from conftest import TinyBert
from trimformer import evaluate
from trimformer.cli.steps import judged_on
from trimformer.model import checkpoint
from trimformer.model.manifest import read_manifest

NAMED = ["--column", "sentence=Review Text (EN)", "--column", "label=Stars"]
COLUMNS = {"sentence": "Review Text (EN)", "label": "Stars"}


@pytest.fixture
def model(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    return checkpoint.write(tiny_bert(num_labels=2), tmp_path / "dense", tokenizer=tokenizer)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "reviews.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened, delimiter=";")
        writer.writerow(["Review Text (EN)", "Stars", "note"])
        writer.writerows([row["sentence"], row["label"], "a note"] for row in rows(80, seed=0))
    return file


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("prune", ["--flops", 0.5, "--method", "random", "--calibration-tokens", 150]),
        ("prune", ["--flops", 0.5, "--method", "random", "--calibration-tokens", 150, "--vocabulary", "calibration"]),
        ("sweep", ["--flops", "0.5", "--method", "random", "--calibration-tokens", 150]),
        ("finetune", ["--train", "max_steps=1"]),
        ("pprune", ["--flops", 0.5, "--method", "random", "--calibration-tokens", 150, "--train", "max_steps=1"]),
        ("vocabulary", []),
        ("evaluate", []),
    ],
)
def test_every_command_reads_named_columns(
    run: Run, model: Path, data: Path, tmp_path: Path, command: str, options: list[object]
) -> None:
    source = ["--texts", data] if command == "vocabulary" else ["--task", "sst2", "--data", data]
    to = [] if command == "evaluate" else ["--out", tmp_path / "out"]
    result = run(command, model, *source, *to, *options, *NAMED)
    assert result.code == 0, result.err
    if command not in ("vocabulary", "evaluate"):
        folder = next((tmp_path / "out").glob("flops-*"), tmp_path / "out")
        assert read_manifest(folder)["columns"] == COLUMNS
    bare = run(command, model, *source, *([] if command == "evaluate" else ["--out", tmp_path / "other"]), *options)
    assert command == "vocabulary" or "has no column 'sentence'" in bare.err
    assert command == "vocabulary" or "--column sentence=…" in bare.err


def test_only_the_column_that_is_named_keeps_tokens(run: Run, model: Path, data: Path, tmp_path: Path) -> None:
    command = ["vocabulary", model, "--texts", data, "--json"]
    facts = [run(*command, "--out", tmp_path / name, *more) for name, more in (("a", []), ("b", NAMED[:2]))]
    every, one = (json.loads(each.out)["vocabulary"]["proved_texts"] for each in facts)
    assert every == 2 * one == 160


def test_an_export_knows_them_from_the_manifest(
    run: Run, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest names rows as seen from where the command ran."""
    monkeypatch.chdir(tmp_path)
    out, options = tmp_path / "out", ["--flops", 0.5, "--method", "random", "--calibration-tokens", 150]
    assert run("prune", model, "--task", "sst2", "--data", data, *options, *NAMED, "--out", out).code == 0
    again = run("evaluate", out, "--data", data, "--json")
    assert (again.code, json.loads(again.out)["task"]) == (0, "classification"), again.err
    assert f"as {out} was made with" in again.err
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"sentence": "the cat", "label": n % 2}) + "\n" for n in range(10)))
    assert "was made with" not in run("evaluate", out, "--task", "sst2", "--data", other).err
    assert judged_on(str(out), None, None, {}).columns == COLUMNS
    assert judged_on(str(out), None, str(data), COLUMNS).columns == COLUMNS
    assert judged_on(str(out), "sst2", str(data), {}).columns == {}


def test_python_has_the_same(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, data: Path) -> None:
    assert (
        evaluate(tiny_bert(num_labels=2), tokenizer, "sst2", str(data), columns=COLUMNS)["accuracy"].sample_size == 16
    )


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (["label=Star"], "reviews.csv has no column 'Star'; did you mean 'Stars'?"),
        (["text=review"], "reviews.csv has no column 'review'; did you mean "),
        (["label"], "--column 'label' must be name=value, such as --column text='Review Text'"),
        (["=Stars"], "must be name=value"),
        (["label="], "--column label must be given once, and name a column"),
        (["label=Stars", "label=note"], "--column label must be given once"),
        (["label=Stars", "sentence=Stars"], "--column gives 'Stars' two names"),
    ],
)
def test_a_mistake_is_one_line(run: Run, model: Path, data: Path, tmp_path: Path, named: list[str], said: str) -> None:
    options = [part for each in named for part in ("--column", each)]
    out = tmp_path / "out"
    assert_mistake(run("prune", model, "--task", "sst2", "--data", data, "--flops", 0.5, "--out", out, *options), said)
    assert not out.exists()
