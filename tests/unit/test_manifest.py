"""The manifest's plain form: readable, complete, and without secrets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from example_facts import facts, latency, plain_facts
from tiny_models import tiny_model
from trimformer.cli.app import command_line
from trimformer.errors import DataError
from trimformer.judging.manifest import Manifest, speedup
from trimformer.model.manifest import as_text
from trimformer.model.structure import read_structure
from trimformer.pruning.facts import CURVE_POINTS, compact_curves, patterns, units_by_block


def test_text_reads_back_and_has_a_line_for_a_list_of_numbers() -> None:
    text = as_text([plain_facts(warnings=["[\n  1,\n  2\n]", 'a "quoted" one'])])
    assert json.loads(text) == [plain_facts(warnings=["[\n  1,\n  2\n]", 'a "quoted" one'])]
    curves = [line for line in text.splitlines() if "encoder.layer.0.ffn" in line]
    assert len(curves) == 1
    assert curves[0].count(",") >= CURVE_POINTS - 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune", "a b", "--set", "x='1'"], """trimformer prune 'a b' --set 'x='"'"'1'"'"''"""),
        (["prune", "hf_abcdefghijklmnop"], "trimformer prune …"),
        (
            ["prune", "--data", "https://me:secret@host/file"],  # pragma: allowlist secret
            "trimformer prune --data https://…@host/file",
        ),
        (["prune", "half_hf_model"], "trimformer prune half_hf_model"),
    ],
)
def test_commands_are_quoted_and_keep_no_secret(arguments: list[str], said: str) -> None:
    assert command_line(arguments) == said


def test_curves_are_cumulated_at_even_shares() -> None:
    few, many = torch.tensor([1.0, 2.0, 4.0]), torch.ones(1536)
    found = compact_curves({"a.0.ffn": many, "a.0.attention": few, "a.1.ffn": None})
    assert found["a.0.attention"] == (0.0, 1.0, 3.0, 7.0)
    assert found["a.0.ffn"] == pytest.approx([48.0 * step for step in range(CURVE_POINTS)], rel=1e-3)
    assert set(found) == {"a.0.attention", "a.0.ffn"}
    assert compact_curves({"a.0.ffn": torch.zeros(0)}) == {}


def test_patterns_are_of_small_sites_only() -> None:
    masks = {"a.0.attention": torch.tensor([True, False, True]), "a.0.ffn": torch.ones(1536, dtype=torch.bool)}
    assert patterns(masks) == {"a.0.attention": "#.#"}


def test_a_record_reads_back_from_its_json() -> None:
    written = plain_facts(guard={"max_drop": 0.01, "drop": 0.002, "rows": 500}, new_head=["classifier.weight"])
    record = Manifest.from_json(written)
    assert record.as_json() == written
    assert Manifest.from_json(json.loads(as_text(record.as_json()))) == record


def test_a_record_has_no_sections_of_what_was_not_done() -> None:
    bare = {key: value for key, value in plain_facts().items() if key not in ("metrics", "latency", "command")}
    record = Manifest.from_json(bare)
    assert (record.metrics, record.latency, record.origin.command, record.latency_share) == ({}, {}, "", None)
    assert not record.as_json().keys() & {"metrics", "latency", "command", "guard", "new_head", "finetuning"}


def test_shares_are_of_the_dense_model() -> None:
    record = facts(parameters={"dense": 400, "pruned": 100}, latency={"dense": latency(50.0), "pruned": latency(40.0)})
    assert record.pruning.parameters.share == 0.25
    assert record.latency_share == pytest.approx(0.8)
    assert speedup(record.latency) == pytest.approx(1.25)


def test_a_model_that_was_not_pruned_says_so() -> None:
    record = Manifest.from_json({"model_class": "BertModel", "source": "some/model", "seconds": 12.5})
    assert record.as_json() == {"model_class": "BertModel", "warnings": [], "source": "some/model"}
    with pytest.raises(DataError, match="nothing was pruned"):
        _ = record.pruning


def test_facts_of_an_earlier_version_are_completed() -> None:
    later = ("dtype", "processes", "patterns", "curves", "memory_mb", "model_class", "warnings", "already_pruned")
    pruning = Manifest.from_json({key: value for key, value in plain_facts().items() if key not in later}).pruning
    assert (pruning.dtype, pruning.model_class, pruning.warnings, pruning.curves) == ("float32", "AutoModel", (), {})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": 3}, "budget is 3, not keys"),
        ({"budget": {"cost": "flops", "asked": 0.5}}, "budget.reached is missing"),
        ({"parameters": {"dense": 1.5, "pruned": 1}}, "parameters.dense is 1.5, not a whole number"),
        ({"parameters": {"dense": True, "pruned": 1}}, "parameters.dense is true, not a whole number"),
        ({"kept": {"flops": "half"}}, 'kept.flops is "half", not a number'),
        ({"kept": {"params": 0.5}}, "kept.flops is missing"),
        ({"warnings": "beware"}, 'warnings is "beware", not a list'),
        ({"warnings": ["beware", 1]}, "warnings[1] is 1, not a text"),
        ({"units": [{"head": 1, "head_of": 2}]}, "units[0].block is null, not a whole number"),
        ({"units": [{"block": 0, "head": None, "head_of": 2}]}, "units[0].head is null"),
        ({"curves": {"somewhere": [0.0, 1.0]}}, "'somewhere' is no sublayer"),
        ({"patterns": {"encoder.layer.99.attention": "##"}}, "is no sublayer of a block"),
        ({"seconds": {"pruning": 1.0}}, "seconds.measuring is missing"),
        ({"latency": {"dense": latency(5.0)}}, "latency has dense, not dense and pruned"),
        ({"metrics": {"dense": {"accuracy": {"value": 1.0}}}}, "metrics.dense.accuracy.sample_size is missing"),
        ({"source": 3}, "source is 3, not a text"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        facts(**changes)
    assert said in str(caught.value)


def test_units_of_several_sites_of_a_kind_in_a_block_are_counted_together() -> None:
    structure = read_structure(tiny_model("bert"))
    twice = replace(structure, sites=structure.sites * 2)
    masks = structure.full_masks()
    (first, *_), whole = units_by_block(twice, masks), units_by_block(structure, masks)[0]
    assert first.units["head"].of == 2 * whole.units["head"].of
