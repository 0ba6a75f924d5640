"""What must hold for any input, tried on many: some dozens of each; `make properties` tries 10,000."""

from __future__ import annotations

import os
from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import build_tokenizer
from example_facts import plain_facts
from tiny_models import inputs, outputs, tiny_model
from trimformer import Budget, prune
from trimformer.data.batches import make_batches
from trimformer.data.labels import class_finder
from trimformer.judging.manifest import Manifest
from trimformer.model.masking import masked
from trimformer.model.structure import read_structure
from trimformer.model.surgery import cut
from trimformer.observing.sums import RegressionSums
from trimformer.pruning.budget import CostTables, linear_table, total_cost
from trimformer.pruning.choose.bounds import Bounds
from trimformer.pruning.choose.curves import RemovalCurve, damped, removal_curve
from trimformer.pruning.choose.search import keep_best, remove_cheapest
from trimformer.pruning.refit.least_squares import solve
from trimformer.pruning.sizes import numbers, read_range, span
from trimformer.report.characters import STEERING, in_a_line
from trimformer.report.markdown import code, escaped

SHARE = float(os.environ.get("TRIMFORMER_PROPERTIES", "1"))
"""How many times as many cases as by default are tried; those of whole models are a tenth of the others."""
seeds = st.integers(0, 2**31)


def cases(count: int) -> settings:
    """So many cases, times `SHARE`; the same ones each time, and kept nowhere."""
    return settings(
        max_examples=max(1, round(count * SHARE)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def searches(draw: st.DrawFn, *, unit_costs: bool = False) -> tuple[dict[str, int], CostTables, float, Bounds, int]:
    """Sites with their units, tables that never fall, bounds, and a limit that the least of these fits into."""
    sites = {f"s{number}": draw(st.integers(0, 6)) for number in range(draw(st.integers(1, 3)))}
    steps = st.just(1.0) if unit_costs else st.sampled_from([0.0, 0.5, 1.0, 3.25])
    tables = {
        name: torch.tensor([0.0, *draw(st.lists(steps, min_size=units, max_size=units))], dtype=torch.float64).cumsum(0)
        for name, units in sites.items()
    }
    bounds = Bounds()
    if not unit_costs:
        ranges = {
            name: sorted((draw(st.integers(0, units)), draw(st.integers(0, units)))) for name, units in sites.items()
        }
        bounds = Bounds(least={n: r[0] for n, r in ranges.items()}, most={n: r[1] for n, r in ranges.items()})
    least, most = bounds.cost(tables)
    return sites, tables, least + draw(st.floats(0, 1)) * (most - least), bounds, draw(seeds)


def random_curves(sites: dict[str, int], seed: int) -> dict[str, RemovalCurve]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: RemovalCurve(
            torch.randperm(units, generator=generator),
            torch.rand(units, generator=generator, dtype=torch.float64).sort().values,
        )
        for name, units in sites.items()
    }


class TestSearches:
    @cases(40)
    @given(searches())
    def test_what_is_kept_costs_no_more_than_the_limit_and_keeps_to_the_bounds(self, search) -> None:
        sites, tables, limit, bounds, seed = search
        scores = {name: drawn(seed + number, units) for number, (name, units) in enumerate(sites.items())}
        for masks in (
            keep_best(scores, tables, limit, bounds),
            remove_cheapest(random_curves(sites, seed), tables, limit, bounds),
        ):
            assert total_cost(masks, tables) <= limit + 1e-9
            bounds.check(masks)

    @cases(30)
    @given(searches())
    def test_nothing_more_fits(self, search) -> None:
        sites, tables, limit, bounds, seed = search
        scores = {name: drawn(seed + number, units) for number, (name, units) in enumerate(sites.items())}
        masks = keep_best(scores, tables, limit, bounds)
        left = limit - total_cost(masks, tables)
        for name, mask in masks.items():
            kept = int(mask.sum())
            if kept < bounds.of(name, mask.numel())[1]:
                assert float(tables[name][kept + 1] - tables[name][kept]) > left - 1e-9

    @cases(40)
    @given(searches(unit_costs=True))
    def test_the_cheapest_removals_are_those_that_trying_all_finds(self, search) -> None:
        sites, tables, limit, _, seed = search
        curves = random_curves(sites, seed)
        masks = remove_cheapest(curves, tables, limit)

        def loss(removed: tuple[int, ...]) -> float:
            return sum(float(curves[name].cost[:count].sum()) for name, count in zip(sites, removed, strict=True))

        total = sum(sites.values())
        ways = product(*(range(units + 1) for units in sites.values()))
        best = min(loss(removed) for removed in ways if total - sum(removed) <= limit * (1 + 1e-12))
        assert loss(tuple(int((~masks[name]).sum()) for name in sites)) == pytest.approx(best, abs=1e-12)


class TestCurves:
    @cases(30)
    @given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 5), seeds)
    def test_they_never_fall_and_remove_every_unit_once(self, units: int, size: int, width: int, seed: int) -> None:
        gram, metric, weight = self.problem(units * size, width, seed)
        curve = removal_curve(gram, metric, weight, units, site="a site")
        assert sorted(curve.order.tolist()) == list(range(units))
        assert bool((curve.cost.diff() >= 0).all())
        assert float(curve.cost[0]) >= 0

    @cases(30)
    @given(st.integers(2, 6), st.integers(1, 3), seeds)
    def test_the_whole_costs_what_emptying_costs(self, units: int, size: int, seed: int) -> None:
        gram, metric, weight = self.problem(units * size, 3, seed)
        curve = removal_curve(gram, metric, weight, units, site="a site")
        whole = float((weight.T @ gram @ weight @ metric).trace()) / 2
        assert float(curve.cost.sum()) == pytest.approx(whole, rel=1e-6)

    @staticmethod
    def problem(features: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        rows, gradients = drawn(seed, 3 * features, features), drawn(seed + 1, 3 * width, width)
        return damped(rows.T @ rows, 0.1), damped(gradients.T @ gradients, 0.1), drawn(seed + 2, features, width)


@cases(40)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 30), st.floats(1e-3, 10), st.booleans(), seeds)
def test_least_squares_are_those_of_scipy(
    features: int, width: int, more: int, ridge: float, intercept: bool, seed: int
) -> None:
    rows = features + 2 + more
    given_rows, targets = drawn(seed, rows, features) + 1, drawn(seed + 1, rows, width)
    prior, bias = drawn(seed + 2, features, width), drawn(seed + 3, width)
    sums = RegressionSums(features, width, "cpu")
    for part in (slice(0, rows // 2), slice(rows // 2, rows)):
        sums.add(given_rows[part], targets[part])
    found = solve(sums, prior, bias, ridge=ridge, intercept=intercept, site="a site")
    weight = ridge * float(given_rows.square().mean(0).mean())
    ones = np.ones((rows, 1)) if intercept else np.zeros((rows, 0))
    of_rows = np.hstack([given_rows.numpy(), ones]) / np.sqrt(rows)
    pull = np.hstack([np.eye(features), np.zeros((features, ones.shape[1]))]) * np.sqrt(weight)
    right = targets.numpy() - (0 if intercept else bias.numpy())
    wanted = scipy.linalg.lstsq(
        np.vstack([of_rows, pull]), np.vstack([right / np.sqrt(rows), prior.numpy() * np.sqrt(weight)])
    )[0]
    np.testing.assert_allclose(found.weight.numpy(), wanted[:features], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.bias.numpy(), wanted[-1] if intercept else bias.numpy(), rtol=1e-6, atol=1e-8)


class TestWholeModels:
    @cases(4)
    @given(st.sampled_from(["bert", "llama", "gpt2", "distilbert"]), st.data())
    def test_cutting_is_masking(self, architecture: str, data: st.DataObject) -> None:
        model = tiny_model(architecture)
        structure, batch = read_structure(model), inputs(model)
        masks = {
            site.name: torch.tensor(
                data.draw(st.lists(st.booleans(), min_size=site.units, max_size=site.units)), dtype=torch.bool
            )
            for site in structure
        }
        with masked(structure, masks):
            wanted = outputs(model, batch)
        found = outputs(cut(read_structure(deepcopy(model)), masks).model, batch)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)

    @cases(4)
    @given(st.floats(0.05, 1.0), st.sampled_from(["flops", "params"]), seeds)
    def test_no_budget_is_exceeded_and_the_dense_model_stays(self, share: float, cost: str, seed: int) -> None:
        model = tiny_model("bert", seed=seed % 7)
        before = {name: values.clone() for name, values in model.state_dict().items()}
        rows = [{"input_ids": [2, *range(5, 5 + length), 3]} for length in range(3, 9)]
        result = prune(
            model, rows, budget=Budget(**{cost: share}), method="magnitude", calibration_tokens=None, progress=False
        )
        assert result.facts.kept[cost] <= share + 1e-9
        assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


class TestRoundTrips:
    @cases(40)
    @given(st.lists(st.lists(st.integers(5, 40), min_size=1, max_size=20), min_size=1, max_size=40))
    def test_tokens_through_batches(self, texts: list[list[int]]) -> None:
        batches = make_batches([{"input_ids": ids} for ids in texts], build_tokenizer(), "cpu")
        found = [
            row[mask.bool()].tolist()
            for batch in batches
            for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        assert sorted(found) == sorted(texts)

    @cases(40)
    @given(st.lists(words, min_size=1, max_size=8, unique_by=lambda word: word.strip().lower()))
    def test_labels_by_name(self, classes: list[str]) -> None:
        find = class_finder(classes, "label")
        assert [find(name, "row 1", None) for name in classes] == list(range(len(classes)))

    @cases(40)
    @given(st.sets(st.integers(0, 60), min_size=1))
    def test_numbers_and_ranges(self, wanted: set[int]) -> None:
        assert numbers(",".join(map(str, wanted)), "keep_layers") == sorted(wanted)
        low, high = min(wanted), max(wanted)
        assert span(f"{low}-{high}", "heads") == read_range(f"{low}-{high}") == (low, high)
        assert numbers(f"{low}-{high}", "keep_layers") == list(range(low, high + 1))

    @cases(20)
    @given(st.floats(0.05, 1.0), words, words)
    def test_the_manifest(self, share: float, source: str, task: str) -> None:
        facts = plain_facts(share, source=source, task=task)
        once = Manifest.from_json(facts)
        again = Manifest.from_json(once.as_json())
        assert again.as_json() == once.as_json()
        assert again.origin.task == task


class TestNames:
    @cases(40)
    @given(st.text())
    def test_nothing_steers_and_nothing_breaks_a_line(self, name: str) -> None:
        for shown in (in_a_line(name), escaped(name), code(name)):
            assert not STEERING.search(shown)
            assert "\n" not in shown
        assert "|" not in escaped(name).replace("\\|", "")
        assert "`" not in code(name)[1:-1]


def test_costs_of_the_least_are_linear() -> None:
    assert Bounds(least={"a": 2}).cost({"a": linear_table(4, 1.5)}) == (3.0, 6.0)
