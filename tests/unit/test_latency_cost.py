"""Latency as a cost: tables that hold on this machine, shares of the whole model's time, and a cache of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tiny_models import tiny_model
from trimformer import plugins
from trimformer.data.batches import Workload
from trimformer.errors import InvalidOption, UnreachableTarget
from trimformer.model.structure import Structure, read_structure
from trimformer.model.surgery import cut
from trimformer.pruning.budget import Budget, Prices, linear_table
from trimformer.pruning.cache import MeasuredCache
from trimformer.pruning.once import prune

COST = plugins.load("costs", "latency")
WORKLOAD = Workload(sequence_length=6, batch_size=2)
WHOLE = ((0.0, 20.0), (10.0, 40.0), (30.0, 100.0))


@pytest.fixture
def prices() -> Prices:
    return Prices({"a": linear_table(10, 1.0), "b": linear_table(5, 4.0)}, WHOLE)


@pytest.mark.parametrize(("share", "limit"), [(1.0, 30.0), (0.7, 20.0), (0.4, 10.0), (0.2, 0.0)])
def test_a_share_of_the_whole_is_turned_into_what_the_units_may_cost(
    prices: Prices, share: float, limit: float
) -> None:
    assert prices.total == 100
    assert prices.limit(share) == pytest.approx(limit)
    assert prices.of_sum(limit) == pytest.approx(100 * share)


def test_a_share_below_the_empty_model_names_the_floor(prices: Prices) -> None:
    with pytest.raises(UnreachableTarget, match=r"still takes 20\.0%"):
        prices.limit(0.19)


@pytest.mark.parametrize("share", [0.45, 0.5, 0.6, 0.7])
def test_sums_that_the_table_cannot_tell_apart_do_not_break_the_budget(share: float) -> None:
    flat = Prices({"a": linear_table(10, 3.0)}, ((0.0, 20.0), (0.0, 40.0), (10.0, 45.0), (10.0, 60.0), (30.0, 100.0)))
    assert flat.of_sum(flat.limit(share)) == pytest.approx(100 * share)
    with pytest.raises(UnreachableTarget, match=r"still takes 40\.0%"):
        flat.limit(0.3)


def test_formula_costs_are_their_own_whole() -> None:
    prices = Prices({"a": linear_table(10, 2.0)})
    assert (prices.total, prices.limit(0.5), prices.of_sum(7.0)) == (20, 10, 7)


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_tables_start_at_zero_never_fall_and_are_shared_by_equal_sites(architecture: str) -> None:
    model = tiny_model(architecture)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    structure = read_structure(model)
    prices = COST.prices(structure, WORKLOAD)
    for site in structure:
        table = prices.tables[site.name]
        assert table.shape == (site.units + 1,)
        assert table[0] == 0
        assert (table.diff() >= 0).all()
    first, _, again = structure.sites[:3]
    assert torch.equal(prices.tables[first.name], prices.tables[again.name])
    sums, times = zip(*prices.whole, strict=True)
    assert list(sums) == sorted(sums)
    assert list(times) == sorted(times)
    assert times[0] > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_table_is_kept_and_made_anew_for_another_workload(tmp_path: Path) -> None:
    said: list[str] = []
    cache = MeasuredCache(tmp_path, say=said.append)
    structure = read_structure(tiny_model("bert"))
    first = COST.prices(structure, WORKLOAD, cache=cache)
    again = COST.prices(structure, WORKLOAD, cache=cache)
    assert again.whole == first.whole
    assert "reusing" in said[-1]
    COST.prices(structure, Workload(sequence_length=7, batch_size=2), cache=cache)
    assert "other workload: measuring again" in said[-1]


def test_a_latency_budget_prunes_and_says_what_it_reached_and_measured() -> None:
    model = tiny_model("bert", hidden_size=128, intermediate_size=512)  # large enough for its units to take time
    rows = [{"input_ids": list(range(5, 37))}] * 8
    result = prune(model, rows, budget=Budget(latency=0.9, round_to=4), batch_size=8, calibration_tokens=None)
    facts = result.manifest["budget"]
    assert (facts["cost"], facts["asked"]) == ("latency", 0.9)
    assert facts["measured"] > 0
    assert result.manifest["workload"] == {"sequence_length": 32.0, "batch_size": 8}
    assert "latency" in result.manifest["kept"]
    for site in read_structure(result.model):
        assert site.kind == "head" or site.units % 4 == 0


def test_a_model_with_empty_sublayers_has_a_table() -> None:
    dense = read_structure(tiny_model("bert"))
    masks = dense.full_masks()
    for name in (dense.sites[0].name, dense.sites[1].name):
        masks[name][:] = False
    small = cut(dense, masks)
    prices = COST.prices(small, WORKLOAD)
    assert [len(prices.tables[site.name]) for site in small] == [site.units + 1 for site in small]
    assert prices.tables[small.sites[0].name].tolist() == [0]
    rows = [{"input_ids": list(range(5, 37))}] * 8
    result = prune(small.model, rows, budget=Budget(params=0.5), batch_size=8, calibration_tokens=None)
    assert not read_structure(result.model).sites[1].units


class SlowerThanItsTable:
    """A cost that counts parameters and finds `factor` times as many afterwards."""

    description = "for this test"

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.results: list[float] = []

    def prices(self, structure: Structure, workload: Workload, **_: object) -> Prices:
        return plugins.load("costs", "params").prices(structure, workload)

    def kept(self, dense: PreTrainedModel, pruned: PreTrainedModel, *_: object) -> float:
        total, left = (self.prices(read_structure(model), WORKLOAD).total for model in (dense, pruned))
        self.results.append(self.factor * left / total)
        return self.results[-1]


class NeverFaster(SlowerThanItsTable):
    """A cost that finds nothing gained."""

    def kept(self, *_: object) -> float:
        return 1.0


@pytest.mark.parametrize(("factor", "measurements"), [(1.0, 1), (1.2, 2), (0.8, 2)])
def test_a_result_that_measures_otherwise_is_pruned_again(
    monkeypatch: pytest.MonkeyPatch, factor: float, measurements: int
) -> None:
    cost = SlowerThanItsTable(factor)
    monkeypatch.setitem(plugins.provided("costs"), "latency", cost)
    rows = [{"input_ids": list(range(5, 13))}] * 8
    budget = Budget(latency=0.5)
    model = tiny_model("bert", intermediate_size=800)
    result = prune(model, rows, budget=budget, method="random", calibration_tokens=None)
    assert len(cost.results) == measurements
    assert result.manifest["budget"]["measured"] == min(cost.results, key=lambda kept: abs(kept - 0.5))
    assert result.manifest["budget"]["measured"] == pytest.approx(0.5, rel=0.05)


def test_a_result_that_stays_far_off_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"input_ids": list(range(5, 13))}] * 8

    def warnings(cost: SlowerThanItsTable) -> list[str]:
        monkeypatch.setitem(plugins.provided("costs"), "latency", cost)
        model = tiny_model("bert", intermediate_size=800)
        result = prune(model, rows, budget=Budget(latency=0.9), method="random", calibration_tokens=None)
        return [said for said in result.manifest["warnings"] if "the result measures" in said]

    assert warnings(SlowerThanItsTable(1.0)) == []
    assert len(warnings(NeverFaster(1.0))) == 1


def test_a_length_that_the_model_cannot_read_is_refused() -> None:
    model = tiny_model("bert")
    length = model.config.max_position_embeddings + 1
    with pytest.raises(InvalidOption, match=f"`sequence_length={length}` is out of range: .* at most {length - 1}"):
        prune(model, [{"input_ids": [5, 6]}], budget=Budget(flops=0.5), sequence_length=length, calibration_tokens=None)


def test_multiples_wider_than_any_layer_are_refused() -> None:
    with pytest.raises(InvalidOption, match="`round_to=4096` is more than the"):
        prune(
            tiny_model("bert"),
            [{"input_ids": [5, 6]}],
            budget=Budget(flops=0.5, round_to=4096),
            calibration_tokens=None,
        )


@pytest.mark.parametrize("wrong", [{"latency": 0.0}, {"latency": 0.5, "flops": 0.5}, {"flops": 0.5, "round_to": 0}])
def test_wrong_budgets(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidOption):
        Budget(**wrong)
