"""`--evaluation-rows`: judged by so many rows, the same ones before and after, and whoever asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from commands import Run, assert_mistake, rows, write
from conftest import TinyBert
from trimformer import evaluate, load_model, load_tokenizer
from trimformer.errors import InvalidOption
from trimformer.model import checkpoint
from trimformer.model.manifest import read_manifest

JUDGED, ALL = 7, 30


@pytest.fixture
def model(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    return Path(checkpoint.write(tiny_bert(num_labels=2), tmp_path / "dense", tokenizer=tokenizer))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", rows(60, seed=0))
    write(folder / "validation.jsonl", rows(ALL, seed=1))
    return folder


def test_a_pruned_model_knows_its_task_and_rows(
    run: Run, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--flops", 0.6, "--calibration-tokens", 200, "--method", "magnitude"]
    assert run("prune", model, "--task", "sst2", "--data", data, *small, "--out", "out").code == 0
    ended = run("evaluate", "out", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["metrics"] == read_manifest("out")["metrics"]["pruned"]
    assert "task and rows: sst2, data, as out was made with …" in ended.err
    data.rename("elsewhere")
    ended = run("evaluate", "out")
    assert ended.code == 2
    assert "the rows that out was pruned for, data, are not found from" in ended.err
    assert "rows of your own are needed" in ended.err


def test_pruned_judged_and_evaluated_by_the_same_rows(run: Run, model: Path, data: Path, tmp_path: Path) -> None:
    out, about = tmp_path / "out", ["--task", "sst2", "--data", data, "--evaluation-rows", JUDGED]
    small = ["--flops", 0.6, "--calibration-tokens", 200, "--method", "magnitude"]
    assert run("prune", model, *about, *small, "--out", out).code == 0
    told = read_manifest(out)["metrics"]
    for which, name in ((model, "dense"), (out, "pruned")):
        assert told[name]["accuracy"]["sample_size"] == JUDGED
        found = json.loads(run("evaluate", which, *about, "--json").out)["metrics"]
        assert found == told[name]
        again = evaluate(load_model(str(which)), load_tokenizer(str(which)), "sst2", str(data), evaluation_rows=JUDGED)
        assert again["accuracy"].value == found["accuracy"]["value"]
    sweep = [*small[2:], "--flops", "0.8,0.6", "--out", tmp_path / "sweep"]
    assert run("sweep", model, *about, *sweep).code == 0
    assert read_manifest(tmp_path / "sweep" / "flops-0.6")["metrics"] == told


def test_methods_that_train_are_judged_so_too(run: Run, model: Path, data: Path, tmp_path: Path) -> None:
    few = ["--method", "dynabert", "--set", "widths=1,0.5", "--set", "depths=1", "--train", "max_steps=1"]
    asked = ["--task", "sst2", "--data", data, "--flops", 0.6, "--out", tmp_path / "out", "--evaluation-rows", JUDGED]
    result = run("retrain", model, *asked, *few)
    assert result.code == 0, result.err
    judged = read_manifest(tmp_path / "out")["metrics"]
    assert {each["accuracy"]["sample_size"] for each in judged.values()} == {JUDGED}


@pytest.mark.parametrize(("asked", "judged"), [(ALL, ALL), (ALL + 1, ALL), (1, 1)])
def test_more_than_there_are_is_all(run: Run, model: Path, data: Path, asked: int, judged: int) -> None:
    command = ["evaluate", model, "--task", "sst2", "--data", data, "--evaluation-rows", asked, "--json"]
    assert json.loads(run(*command).out)["metrics"]["accuracy"]["sample_size"] == judged


def test_none_at_all_is_refused(run: Run, model: Path, data: Path) -> None:
    asked = ["--task", "sst2", "--data", data, "--evaluation-rows", 0]
    assert_mistake(run("evaluate", model, *asked), "--evaluation-rows")
    with pytest.raises(InvalidOption, match="`evaluation_rows=0`"):
        evaluate(load_model(str(model)), load_tokenizer(str(model)), "sst2", str(data), evaluation_rows=0)
