"""Filling a budget equals the plain loop that it replaces."""

from __future__ import annotations

import pytest
import torch

from trimformer.search import fill, keep_best, total_cost


def fill_one_by_one(costs: list[float], limit: float) -> list[int]:
    taken, left = [], limit
    for index, cost in enumerate(costs):
        if cost <= left + limit * 1e-12:
            taken.append(index)
            left -= cost
    return taken


@pytest.mark.parametrize("seed", range(50))
def test_fill_equals_the_plain_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    costs = torch.randint(1, 40, (60,), generator=generator).double()
    limit = float(torch.randint(0, 900, (), generator=generator))
    assert fill(costs, limit).tolist() == fill_one_by_one(costs.tolist(), limit)


@pytest.mark.parametrize(("limit", "taken"), [(0, []), (1, [2]), (5, [0]), (6, [0, 2]), (100, [0, 1, 2])])
def test_fill_passes_over_what_no_longer_fits(limit: float, taken: list[int]) -> None:
    assert fill(torch.tensor([5.0, 4.0, 1.0]), limit).tolist() == taken


def test_rounding_does_not_lose_a_unit() -> None:
    costs = torch.full((10,), 0.1, dtype=torch.float64)
    assert len(fill(costs, 1.0)) == 10


@pytest.mark.parametrize("seed", range(20))
def test_keep_best_takes_units_by_score_over_all_sites(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(units, generator=generator) for name, units in (("a", 4), ("b", 9), ("c", 4), ("d", 0))}
    unit_costs = {"a": 7.0, "b": 1.0, "c": 7.0}
    limit = 30.0 * float(torch.rand((), generator=generator))
    masks = keep_best(scores, unit_costs, limit)
    ranked = sorted(
        ((float(score), name, index) for name in unit_costs for index, score in enumerate(scores[name])),
        key=lambda unit: -unit[0],
    )
    taken = {ranked[i][1:] for i in fill_one_by_one([unit_costs[name] for _, name, _ in ranked], limit)}
    assert {(name, i) for name, mask in masks.items() for i in mask.nonzero()[:, 0].tolist()} == taken
    assert total_cost(masks, unit_costs) <= limit
    assert masks["d"].shape == (0,)


def test_ties_keep_the_order_of_sites_and_units() -> None:
    masks = keep_best({"a": torch.ones(3), "b": torch.ones(3)}, {"a": 1.0, "b": 1.0}, 4)
    assert masks["a"].tolist() == [True, True, True]
    assert masks["b"].tolist() == [True, False, False]
