"""The manifest's plain form: readable, complete, and without secrets."""

from __future__ import annotations

import json

import pytest
import torch

from example_facts import facts
from trimformer.cli.app import command_line
from trimformer.model.manifest import as_text
from trimformer.pruning.facts import CURVE_POINTS, compact_curves, patterns


def test_text_reads_back_and_has_a_line_for_a_list_of_numbers() -> None:
    text = as_text([facts(warnings=["[\n  1,\n  2\n]", 'a "quoted" one'])])
    assert json.loads(text) == [facts(warnings=["[\n  1,\n  2\n]", 'a "quoted" one'])]
    curves = [line for line in text.splitlines() if "encoder.layer.0.ffn" in line]
    assert len(curves) == 1
    assert curves[0].count(",") >= CURVE_POINTS - 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune", "a b", "--set", "x='1'"], """trimformer prune 'a b' --set 'x='"'"'1'"'"''"""),
        (["prune", "hf_abcdefghijklmnop"], "trimformer prune …"),
        (["prune", "--data", "https://me:secret@host/file"], "trimformer prune --data https://…@host/file"),
        (["prune", "half_hf_model"], "trimformer prune half_hf_model"),
    ],
)
def test_commands_are_quoted_and_keep_no_secret(arguments: list[str], said: str) -> None:
    assert command_line(arguments) == said


def test_curves_are_cumulated_at_even_shares() -> None:
    few, many = torch.tensor([1.0, 2.0, 4.0]), torch.ones(1536)
    found = compact_curves({"a.0.ffn.cost": many, "a.0.attention.cost": few, "a.0.ffn.order": many})
    assert found["a.0.attention"] == [0.0, 1.0, 3.0, 7.0]
    assert found["a.0.ffn"] == pytest.approx([48.0 * step for step in range(CURVE_POINTS)], rel=1e-3)
    assert set(found) == {"a.0.attention", "a.0.ffn"}
    assert compact_curves({"a.0.ffn.cost": torch.zeros(0)}) == {}


def test_patterns_are_of_small_sites_only() -> None:
    masks = {"a.0.attention": torch.tensor([True, False, True]), "a.0.ffn": torch.ones(1536, dtype=torch.bool)}
    assert patterns(masks) == {"a.0.attention": "#.#"}
