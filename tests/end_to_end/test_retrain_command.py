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
    result = run(*asked, "--method", "dynabert", "--flops", 0.6, "--out", out, "--json")
    assert result.code == 0, result.err
    facts = read_manifest(out)
    assert facts["budget"]["reached"] <= 0.6
    assert {"rewiring", "width", "depth", "choosing"} <= facts["recipe"]["cpu_seconds"].keys()
    assert json.loads(result.out)["budget"] == facts["budget"]
    assert load_model(str(out)).config.num_labels == 2
    assert not out.with_name("out.unfinished").exists()


def test_mistakes_are_a_line(run: Run, asked: list[object], tmp_path: Path) -> None:
    out = ["--out", tmp_path / "out"]
    assert_mistake(run(*asked, *out), "say how small", "--flops 0.6")
    assert_mistake(run(*asked, *out, "--flops", 0.01), "the smallest sub-network keeps")
    assert_mistake(run(*asked, *out, "--flops", 0.6, "--method", "dynaber"), "dynabert")
