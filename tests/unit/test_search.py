"""Filling a budget and removing along curves equal the plain search, with linear and with uneven costs."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from tiny_models import tiny_model
from trimformer.model.sites import Scores
from trimformer.model.structure import read_structure
from trimformer.pruning.budget import CostTables, linear_table, multiples_of, rounded_table, rounded_tables, total_cost
from trimformer.pruning.choose.curves import RemovalCurve
from trimformer.pruning.choose.search import keep_best, remove_cheapest, remove_in_order

SIZES = {"a": 4, "b": 9, "c": 4, "d": 0}
STEPS = torch.tensor([0.0, 5, 5, 5, 9, 9, 9, 9, 20, 20], dtype=torch.float64)


def keep_one_by_one(scores: Scores, tables: CostTables, limit: float) -> set[tuple[str, int]]:
    ranked = sorted(
        ((-float(score), name, index) for name, values in scores.items() for index, score in enumerate(values)),
        key=lambda unit: unit[0],
    )
    kept: set[tuple[str, int]] = set()
    for _, name, index in ranked:
        counts = {site: sum(owner == site for owner, _ in kept) for site in scores}
        counts[name] += 1
        if sum(float(tables[site][count]) for site, count in counts.items()) <= limit * (1 + 1e-12):
            kept.add((name, index))
    return kept


def linear(costs: dict[str, float]) -> CostTables:
    return {name: linear_table(units, costs.get(name, 1.0)) for name, units in SIZES.items()}


def random_scores(seed: int) -> tuple[Scores, float]:
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(units, generator=generator) for name, units in SIZES.items()}
    return scores, 60.0 * float(torch.rand((), generator=generator))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tables", [linear({"a": 7, "b": 1, "c": 7}), linear({"a": 1, "c": 1}) | {"b": STEPS}])
def test_keep_best_equals_the_plain_loop(tables: CostTables, seed: int) -> None:
    scores, limit = random_scores(seed)
    masks = keep_best(scores, tables, limit)
    kept = {(name, i) for name, mask in masks.items() for i in mask.nonzero()[:, 0].tolist()}
    assert kept == keep_one_by_one(scores, tables, limit)
    assert total_cost(masks, tables) <= limit
    assert masks["d"].shape == (0,)


@pytest.mark.parametrize(("limit", "kept"), [(0, []), (1, ["c"]), (5, ["a"]), (6, ["a", "c"]), (100, ["a", "b", "c"])])
def test_keep_best_passes_over_what_no_longer_fits(limit: float, kept: list[str]) -> None:
    scores = {"a": torch.tensor([3.0]), "b": torch.tensor([2.0]), "c": torch.tensor([1.0])}
    tables = {"a": linear_table(1, 5), "b": linear_table(1, 4), "c": linear_table(1, 1)}
    assert [name for name, mask in keep_best(scores, tables, limit).items() if mask.all()] == kept


def test_rounding_does_not_lose_a_unit() -> None:
    assert keep_best({"a": torch.rand(10)}, {"a": linear_table(10, 0.1)}, 1.0)["a"].all()


def test_what_costs_nothing_stays_at_a_limit_of_nothing() -> None:
    masks = keep_best({"a": torch.rand(2), "b": torch.rand(2)}, {"a": torch.zeros(3), "b": linear_table(2, 1.0)}, 0.0)
    assert [mask.tolist() for mask in masks.values()] == [[True, True], [False, False]]


def test_ties_keep_the_order_of_sites_and_units() -> None:
    masks = keep_best({"a": torch.ones(3), "b": torch.ones(3)}, dict.fromkeys("ab", linear_table(3, 1.0)), 4)
    assert masks["a"].tolist() == [True, True, True]
    assert masks["b"].tolist() == [True, False, False]


@pytest.mark.parametrize("limit", [0, 3, 8, 17, 30, 41.9, 100])
@pytest.mark.parametrize("seed", range(5))
def test_remove_cheapest_keeps_whole_multiples_within_the_limit(seed: int, limit: float) -> None:
    curves = {name: random_curve(units, seed + index) for index, (name, units) in enumerate(SIZES.items())}
    tables = {name: rounded_table(table, 3) for name, table in linear({"a": 7, "b": 1, "c": 7}).items()}
    masks = remove_cheapest(curves, tables, limit)
    assert total_cost(masks, tables) <= limit
    for name, mask in masks.items():
        assert int(mask.sum()) % 3 == 0 or mask.all()
        assert not mask[curves[name].order[: int((~mask).sum())]].any()


def random_curve(units: int, seed: int) -> RemovalCurve:
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(units, generator=generator, dtype=torch.float64).sort().values
    return RemovalCurve(torch.randperm(units, generator=generator), cost)


@pytest.mark.parametrize("limit", [6.0, 11.5, 16.0, 21.0])
def test_remove_cheapest_is_optimal_where_prices_rise_and_all_units_cost_the_same(limit: float) -> None:
    curves = {name: random_curve(7, seed) for seed, name in enumerate("xyz")}
    tables = dict.fromkeys("xyz", linear_table(7, 1.0))
    masks = remove_cheapest(curves, tables, limit)

    def loss(removed: tuple[int, ...]) -> float:
        return sum(float(curves[name].cost[:count].sum()) for name, count in zip("xyz", removed, strict=True))

    best = min(loss(removed) for removed in product(range(8), repeat=3) if 21 - sum(removed) <= limit)
    assert loss(tuple(int((~masks[name]).sum()) for name in "xyz")) == pytest.approx(best)


def test_units_that_save_nothing_alone_stay_or_go_together() -> None:
    curves = {
        "steps": RemovalCurve(torch.arange(9), torch.full((9,), 0.1, dtype=torch.float64)),
        "even": RemovalCurve(torch.arange(4), torch.full((4,), 10.0, dtype=torch.float64)),
    }
    masks = remove_cheapest(curves, {"steps": STEPS, "even": linear_table(4, 1.0)}, 15.0)
    assert int(masks["steps"].sum()) == 7
    assert masks["even"].all()


def rising(*costs: float) -> Tensor:
    return torch.tensor(costs, dtype=torch.float64)


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_removals_are_priced_by_what_they_save_in_any_unit_of_cost(unit: float) -> None:
    """A unit of `dear` loses three times as much as one of `cheap`, and saves four times as much."""
    losses = {"dear": rising(3, 20), "cheap": rising(1, 1, 1, 1, 1)}
    curves = {name: RemovalCurve(torch.arange(len(cost)), cost) for name, cost in losses.items()}
    tables = {"dear": linear_table(2, 4 * unit), "cheap": linear_table(5, unit)}
    for saved, counts in ((4.0, [1, 0]), (6.0, [1, 2]), (9.0, [1, 5]), (13.0, [2, 5])):
        masks = remove_cheapest(curves, tables, (13.0 - saved) * unit)
        assert [int((~mask).sum()) for mask in masks.values()] == counts
        ways = [(dear, cheap) for dear, cheap in product(range(3), range(6)) if 4 * dear + cheap >= saved]
        best = min(float(losses["dear"][:dear].sum() + losses["cheap"][:cheap].sum()) for dear, cheap in ways)
        assert sum(float(losses[name][~mask].sum()) for name, mask in masks.items()) == best


def test_what_went_last_comes_back_as_far_as_there_is_room() -> None:
    """Three of `even` save 3 and the one of `large` saves 10, where 12 are to be saved: one of `even` comes back."""
    orders = {"even": torch.tensor([4, 2, 0, 1, 3]), "large": torch.arange(1)}
    prices = {"even": rising(1, 1, 1, 5, 5), "large": rising(2)}
    masks = remove_in_order(orders, prices, {"even": linear_table(5, 1.0), "large": linear_table(1, 10.0)}, 3.0)
    assert [mask.tolist() for mask in masks.values()] == [[True, True, False, True, False], [False]]


def test_what_costs_nothing_comes_back_at_a_limit_of_nothing() -> None:
    orders, prices = {"free": torch.arange(2), "even": torch.arange(2)}, {"free": rising(0, 0), "even": rising(1, 2)}
    masks = remove_in_order(orders, prices, {"free": torch.zeros(3), "even": linear_table(2, 1.0)}, 0.0)
    assert [mask.tolist() for mask in masks.values()] == [[True, True], [False, False]]


def test_unasked_neurons_are_kept_in_sixteens_where_there_are_many() -> None:
    structure = read_structure(tiny_model("bert", intermediate_size=512))
    tables = {site.name: linear_table(site.units, 1.0) for site in structure}
    for asked, multiple in ((None, 16), (1, 1), (8, 8)):
        rounded = rounded_tables(tables, multiples_of(structure, asked))
        for site in structure:
            costs = {float(cost) for cost in rounded[site.name]}
            step = multiple if site.kind == "neuron" else 1
            assert costs == set(map(float, range(0, site.units + 1, step))), (asked, site.name)


def test_rounded_table_charges_the_next_multiple() -> None:
    assert rounded_table(linear_table(10, 1.0), 4).tolist() == [0, 4, 4, 4, 4, 8, 8, 8, 8, 10, 10]


def test_total_cost_reads_the_tables() -> None:
    masks: dict[str, Tensor] = {"b": torch.arange(9) < 4, "d": torch.zeros(0, dtype=torch.bool)}
    assert total_cost(masks, {"b": STEPS, "d": linear_table(0, 1.0)}) == 9
