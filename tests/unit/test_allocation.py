"""The split of a budget is the best of all, and exchanges only ever make the removed units matter less together."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from trimformer.pruning.budget import linear_table, rounded_table, total_cost
from trimformer.pruning.choose.allocation import best_split, rearranged

HEADS, NEURONS = ("a", "c"), ("b", "d")


def random_scores(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"a": 3, "b": 7, "c": 2, "d": 5}
    return {name: torch.rand(size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}


def split(scores: dict[str, Tensor], tables: dict[str, Tensor], limit: float) -> dict[str, Tensor]:
    return best_split({n: scores[n] for n in HEADS}, {n: scores[n] for n in NEURONS}, tables, limit)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limit", [0.5, 3.0, 6.0, 11.5, 20.0, 32.0])
def test_no_split_is_better(seed: int, limit: float) -> None:
    scores = random_scores(seed)
    tables = {n: linear_table(v.numel(), 4.0 if n in HEADS else 1.0) for n, v in scores.items()}
    masks = split(scores, tables, limit)
    heads, neurons = (torch.cat([scores[n] for n in names]).sort(descending=True).values for names in (HEADS, NEURONS))
    possible = [
        float(heads[:h].sum() + neurons[:n].sum())
        for h, n in itertools.product(range(6), range(13))
        if 4 * h + n <= limit
    ]
    assert total_cost(masks, tables) <= limit
    assert sum(float(scores[n][masks[n]].sum()) for n in scores) == pytest.approx(max(possible))


def test_tables_with_steps_are_used_up() -> None:
    scores = random_scores(0)
    tables = {n: linear_table(v.numel(), 4.0 if n in HEADS else 1.0) for n, v in scores.items()}
    tables |= {n: rounded_table(tables[n], 4) for n in NEURONS}
    for limit in (4.0, 8.0, 12.0, 16.0, 31.0):
        masks = split(scores, tables, limit)
        kept = {name: int(mask.sum()) for name, mask in masks.items()}
        assert total_cost(masks, tables) <= limit
        assert kept["b"] in (0, 4, 7)
        assert kept["d"] in (0, 4, 5)


def test_sites_without_units_and_kinds_without_sites() -> None:
    scores = {"a": torch.zeros(0), "b": torch.tensor([1.0, 2.0])}
    tables = {"a": torch.zeros(1), "b": linear_table(2, 1.0)}
    masks = best_split({"a": scores["a"]}, {"b": scores["b"]}, tables, 1.0)
    assert masks["b"].tolist() == [False, True]
    assert masks["a"].numel() == 0
    assert best_split({}, {"b": scores["b"]}, {"b": tables["b"]}, 2.0)["b"].all()


def removed_length(mask: Tensor, gradients: Tensor) -> float:
    return float(gradients[:, ~mask].sum(1).square().sum())


@pytest.mark.parametrize("seed", range(10))
def test_exchanges_follow_the_definition_and_never_make_it_worse(seed: int) -> None:
    gradients = torch.randn(6, 12, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(12, dtype=torch.bool)
    mask[gradients.square().sum(0).argsort()[:7]] = False
    found = rearranged(mask, gradients)
    assert int(found.sum()) == int(mask.sum())
    assert removed_length(found, gradients) <= removed_length(mask, gradients)
    pruned = gradients.square().sum(0).argsort().tolist()[:7]
    for unit in gradients.square().sum(0).argsort().tolist()[7:]:
        pruned.append(unit)
        lengths = [float(gradients[:, [u for u in pruned if u != back]].sum(1).square().sum()) for back in pruned]
        del pruned[lengths.index(min(lengths))]
    assert sorted(pruned) == (~found).nonzero()[:, 0].tolist()


def test_units_that_cancel_go_together() -> None:
    gradients = torch.tensor([[1.0, 1.1, -2.0], [0.0, 0.0, 0.0]])
    assert rearranged(torch.tensor([False, False, True]), gradients).sum() == 1
    assert removed_length(rearranged(torch.tensor([False, False, True]), gradients), gradients) < 1.0


@pytest.mark.parametrize("value", [True, False])
def test_nothing_to_exchange(value: bool) -> None:
    mask = torch.full((4,), value)
    assert torch.equal(rearranged(mask, torch.randn(3, 4)), mask)
