"""Dimensions of heads: what turning and removing them costs, against solving anew, and against decompositions."""

from __future__ import annotations

import copy
from itertools import pairwise

import plain
import pytest
import torch
from torch import Tensor
from trained import classifier, counting_rows, of_few_lengths

from trimformer.model.query_heads import by_dimension
from trimformer.model.sites import Site
from trimformer.model.structure import Structure, read_structure
from trimformer.observing.calibration import Calibration
from trimformer.observing.moments import moments
from trimformer.progress import staged
from trimformer.pruning import turning
from trimformer.pruning.choose.curves import damped
from trimformer.pruning.choose.narrowing import HEAD_OVERHEAD, narrowing_curve, stepped_table
from trimformer.pruning.contract import STAGES

HEADS, WIDTH, OUTPUTS = 3, 4, 7


def problem(seed: int, width: int = WIDTH) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    units = HEADS * width
    inputs, gradients = draw(60, units) @ draw(units, units), draw(40, OUTPUTS)
    gram, metric = inputs.T @ inputs / 60, damped(gradients.T @ gradients, 0.1)
    return gram, metric, draw(units, OUTPUTS), draw(units).square() * 3


def lost(gram: Tensor, metric: Tensor, weight: Tensor, left: list[int]) -> float:
    """`½ tr(ΔWᵀ G ΔW M)` of the best weights that read some features only."""
    best = torch.zeros_like(weight)
    best[left] = torch.linalg.solve(gram[left][:, left], gram[left] @ weight)
    change = best - weight
    return 0.5 * float(torch.trace(change.T @ gram @ change @ metric))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("step", [1, 2])
def test_every_step_is_the_cheapest_and_costs_what_solving_anew_costs(seed: int, step: int) -> None:
    width = WIDTH * step
    gram, metric, weight, scores = problem(seed, width)
    found = narrowing_curve(gram, metric, weight, scores, HEADS, site="here", step=step)
    order, sizes = found.curve.order.tolist(), found.sizes.tolist()
    assert sorted(order) == list(range(HEADS * width))
    assert (sizes[0], sizes[-1]) == (0, HEADS * width)
    rows, columns, total = set(range(HEADS)), set(range(width)), 0.0

    def added(some_rows: set[int], some_columns: set[int]) -> float:
        left = [head * width + place for head in some_rows for place in some_columns]
        before = [head * width + place for head in rows for place in columns]
        of_scores = sum(
            float(scores[head * width + place]) / 2 for head in some_rows for place in columns - some_columns
        )
        return lost(gram, metric, weight, left) - lost(gram, metric, weight, before) + of_scores

    for before, after in pairwise(sizes[::-1]):
        gone = {(unit // width, unit % width) for unit in order[HEADS * width - before : HEADS * width - after]}
        of_heads = {head: added(rows - {head}, columns) for head in rows}
        of_dimensions = {place: added(rows, columns - {place}) for place in columns}
        together = sum(sorted(of_dimensions.values())[:step]) / step / len(rows)
        if min(of_heads.values()) / (len(columns) + HEAD_OVERHEAD) <= together:
            head = min(of_heads, key=lambda which: of_heads[which])
            assert gone == {(head, place) for place in columns}
            total += of_heads[head]
            rows = rows - {head}
        else:
            assert len(columns) % step == 0
            for _ in range(step):
                place = min(columns, key=lambda which: added(rows, columns - {which}))
                total += added(rows, columns - {place})
                assert {(head, place) for head in rows} <= gone
                columns = columns - {place}
            assert len(gone) == step * len(rows)
    assert float(found.curve.cost.sum()) == pytest.approx(total, rel=1e-9)
    assert bool((found.curve.cost.diff() >= 0).all())


def test_widths_are_quarters_where_a_quarter_is_less_than_the_step() -> None:
    found = narrowing_curve(*problem(0, 8), HEADS, site="here", step=8)
    assert {size % 2 for size in found.sizes.tolist()} == {0}


def test_a_stepped_table_costs_what_the_next_size_does() -> None:
    table = torch.arange(7, dtype=torch.float64) * 10
    assert stepped_table(table, torch.tensor([0, 2, 3, 6])).tolist() == [0, 20, 20, 30, 60, 60, 60]


def calibration() -> Calibration:
    structure = read_structure(copy.deepcopy(classifier()))
    structure = read_structure(structure.model, by_dimension(structure.architecture))
    return Calibration(structure, of_few_lengths(counting_rows, 12, seed=4), 3, staged(False, STAGES))


def queries_and_keys(structure: Structure, site: Site, groups: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """All tokens' queries and keys, `(tokens, heads, width)` each."""
    found: list[list[Tensor]] = [[], []]
    for part in (0, 1):
        module = structure.module(site.producers[part].path)
        handle = module.register_forward_hook(lambda _, __, out, at=part: found[at].append(out.flatten(0, 1)))
        for group in groups:
            structure.model(**{name: values for name, values in group.items() if name != "labels"})
        handle.remove()
    queries, keys = (torch.cat(parts).unflatten(-1, (site.heads, site.head_width)) for parts in found)
    return queries, keys


def test_what_queries_are_missed_is_the_squared_derivative_by_a_factor_of_theirs() -> None:
    of = calibration()
    structure, groups = plain.double(classifier()), plain.without_padding(of.batches)
    expected = {site.name: torch.zeros(site.features, dtype=torch.float64) for site in structure if site.attends}
    for group in groups:
        for row in range(len(group["input_ids"])):
            for site in structure:
                if not site.attends:
                    continue
                factor = torch.ones(site.features, dtype=torch.float64, requires_grad=True)
                module = structure.module(site.producers[0].path)
                handle = module.register_forward_hook(lambda _, __, out, by=factor: out * by)
                inputs = {name: values[row : row + 1] for name, values in group.items() if name != "labels"}
                plain.two_classes_root(structure.model(**inputs).logits).backward()
                handle.remove()
                assert factor.grad is not None
                expected[site.name] += factor.grad.square()
    (group_of_all,) = moments(of, gradients=True)
    for name, sums in expected.items():
        torch.testing.assert_close(group_of_all[name].scores, sums, rtol=1e-3, atol=1e-4 * float(sums.max()))


def test_turned_heads_lose_as_little_of_their_scores_as_any_of_fewer_dimensions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut to `r` dimensions, scores miss what the smaller singular values of `C_q^½ C_k^½` hold: Eckart and Young."""
    monkeypatch.setattr(turning, "ONE_IN", 1)
    of = calibration()
    groups = plain.without_padding(of.batches)
    before = plain.double(of.dense.model)
    turning.turn(of)
    after = plain.double(of.dense.model)
    for site in (site for site in of.dense if site.attends):
        queries, keys = queries_and_keys(before, site, groups)
        turned_queries, turned_keys = queries_and_keys(after, site, groups)
        scores = torch.einsum("thi,shi->hts", queries, keys)
        torch.testing.assert_close(torch.einsum("thi,shi->hts", turned_queries, turned_keys), scores, **NEAR)
        centred = keys - keys.mean(0)
        sizes = torch.linalg.svdvals(torch.einsum("thi,shi->hts", queries, centred))
        for kept in range(1, site.head_width):
            fewer = torch.einsum("thi,shi->hts", turned_queries[..., :kept], turned_keys[..., :kept])
            missed = scores - fewer
            missed -= missed.mean(2, keepdim=True)  # what all keys have alike, softmax does not see
            best = sizes[:, kept:].square().sum(1)
            torch.testing.assert_close(
                missed.square().sum((1, 2)), best, rtol=1e-3, atol=1e-6 * float(sizes.max()) ** 2
            )


NEAR = {"rtol": 1e-4, "atol": 1e-4}


def test_turned_values_come_in_falling_order_of_what_they_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turning, "ONE_IN", 1)
    of = calibration()
    whole = read_structure(copy.deepcopy(of.dense.model))
    (group,) = moments(Calibration(whole, of.batches, of.seed, of.progress), gradients=True)
    metrics = {name: damped(seen.gradients / of.sequences, turning.DAMPING) for name, seen in group.items()}
    grams = {name: seen.inputs.covariance for name, seen in group.items()}
    turning.turn(of)
    (turned,) = moments(of, gradients=True)
    for site in (site for site in of.dense if site.attends):
        weight = whole.consumer_weight(whole[site.name]).double()
        now = of.dense.consumer_weight(site).double()
        for head in range(site.heads):
            own = slice(head * site.head_width, (head + 1) * site.head_width)
            covariance = turned[site.name].inputs.covariance[own, own]
            apart = covariance - torch.diag(covariance.diagonal())
            assert float(apart.abs().max()) < 1e-3 * float(covariance.diagonal().max()), "uncorrelated"
            metric = metrics[site.name]
            alone = covariance.diagonal() * ((now[own] @ metric) * now[own]).sum(1)
            root = torch.linalg.cholesky(damped(grams[site.name][own, own], turning.RIDGE))
            factor = torch.linalg.cholesky(metric)
            best = torch.linalg.svdvals(root.T @ weight[own] @ factor).square()
            torch.testing.assert_close(alone, best, rtol=1e-2, atol=1e-4 * float(best.max()))
