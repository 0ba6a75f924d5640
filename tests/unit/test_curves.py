from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trimformer.errors import NumericalError
from trimformer.pruning.choose import curves
from trimformer.pruning.choose.curves import damped, removal_curve

RIDGE = 1e-9


def system(features: int, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(4 * features, features, dtype=torch.float64, generator=generator)
    inputs[:, 1] = inputs[:, 2] + 0.01 * inputs[:, 3]
    outputs = torch.randn(8 * width, width, dtype=torch.float64, generator=generator)
    weight = torch.randn(features, width, dtype=torch.float64, generator=generator)
    return inputs.T @ inputs / len(inputs), outputs.T @ outputs / len(outputs), weight


def smallest_cost(gram: Tensor, metric: Tensor, weight: Tensor, kept: list[int]) -> float:
    """Cost of the best output projection that uses the kept features only, by solving for it."""
    damped = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    best = torch.zeros_like(weight)
    if kept:
        best[kept] = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ weight)
    change = weight - best
    return 0.5 * float(torch.trace(change.T @ damped @ change @ metric))


def brute_force(gram: Tensor, metric: Tensor, weight: Tensor, units: int) -> tuple[list[int], list[float]]:
    size = len(gram) // units
    left, order, totals = list(range(units)), [], [0.0]
    while left:
        costs = {
            unit: smallest_cost(gram, metric, weight, [u * size + i for u in left if u != unit for i in range(size)])
            for unit in left
        }
        best = min(costs, key=costs.__getitem__)
        order.append(best)
        totals.append(costs[best])
        left.remove(best)
    return order, totals


def pooled(costs: Tensor) -> Tensor:
    """Means of the runs that would fall otherwise: of all that begin at or before a place, the largest of the least."""
    sums = torch.cat([costs.new_zeros(1), costs.cumsum(0)])
    places = torch.arange(len(sums), dtype=costs.dtype)
    means = (sums - sums[:, None]) / (places - places[:, None])
    return torch.stack([means[: place + 1, place + 1 :].min(1).values.max() for place in range(len(costs))])


def assert_greedy(features: int, units: int) -> None:
    gram, metric, weight = system(features)
    curve = removal_curve(damped(gram, RIDGE), metric, weight, units, site="ffn")
    order, totals = brute_force(gram, metric, weight, units)
    assert curve.order.tolist() == order
    expected = pooled(torch.tensor(totals, dtype=torch.float64).diff())
    torch.testing.assert_close(curve.cost, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("features", "units"), [(30, 30), (24, 6)], ids=["neurons", "heads"])
def test_curve_is_the_greedy_order_with_every_cost_solved_for(features: int, units: int) -> None:
    assert_greedy(features, units)


@pytest.mark.parametrize(("block", "pool"), [(16, 64), (16, 16), (70, 70), (1, 1), (30, 4)])
def test_the_order_is_greedy_however_few_are_guessed_among(
    block: int, pool: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "BLOCK", block)
    monkeypatch.setattr(curves, "POOL", pool)
    assert_greedy(70, 70)


def test_costs_before_every_step_are_those_of_removing_one_by_one() -> None:
    gram, metric, weight = system(30)
    inverse, values = torch.linalg.inv(damped(gram, 1e-3)), weight @ torch.linalg.cholesky(metric)
    picked = torch.tensor([4, 20, 1, 2, 11, 0])
    gone, own, costs = curves._course(inverse, values, values.square().sum(1), picked, "ffn")
    left, effect = inverse.clone(), values @ values.T
    for step, unit in enumerate(picked):
        expected = effect.diagonal() / left.diagonal()
        expected[picked[:step]] = torch.inf
        torch.testing.assert_close(costs[step], expected)
        curves.remove(left, effect, unit[None])
        torch.testing.assert_close(inverse - gone[: step + 1].T @ gone[: step + 1], left)
        after = values - gone[: step + 1].T @ own[: step + 1]
        torch.testing.assert_close(after @ after.T, effect)


@pytest.mark.parametrize("first", [0, 30])
def test_a_guess_among_all_units_is_right_to_its_end(first: int) -> None:
    """Otherwise the order would be the same, but each step would take the time of a block."""
    gram, metric, weight = system(70)
    inverse, values = torch.linalg.inv(damped(gram, RIDGE)), weight @ torch.linalg.cholesky(metric)
    protected = torch.arange(70) < first
    picked, _ = curves._eliminate_block(inverse, values, protected, 40, "ffn")
    assert len(picked) == 40


def test_of_neurons_that_cost_alike_the_first_goes_first() -> None:
    gram, metric, weight = system(90)
    weight[::2] = 0
    curve = removal_curve(damped(gram, RIDGE), metric, weight, 90, site="ffn", removals=45)
    assert curve.order.tolist() == list(range(0, 90, 2))
    assert not curve.cost.any()


def test_one_of_two_like_neurons_is_free_but_not_both() -> None:
    gram, metric, weight = system(20)
    gram[1], gram[:, 1] = gram[2].clone(), gram[:, 2].clone()
    gram[1, 1] = gram[2, 2] * (1 + 1e-9)
    order = removal_curve(damped(gram, RIDGE), metric, weight, 20, site="ffn").order.tolist()
    assert len({1, 2} & set(order[:1])) == 1
    assert {1, 2} != set(order[:2])


@pytest.mark.parametrize(("features", "units"), [(130, 130), (24, 6)], ids=["neurons", "heads"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
def test_a_curve_that_ends_early_is_the_beginning_of_the_whole_one(features: int, units: int, share: float) -> None:
    gram, metric, weight = system(features)
    removals = int(share * units)
    whole = removal_curve(damped(gram, RIDGE), metric, weight, units, site="ffn")
    begun = removal_curve(damped(gram, RIDGE), metric, weight, units, site="ffn", removals=removals)
    assert begun.order.tolist() == whole.order[:removals].tolist()
    assert begun.cost.shape == (removals,)


@pytest.mark.parametrize("units", [130, 13], ids=["neurons", "heads"])
def test_protected_units_stay_and_arguments_are_not_changed(units: int) -> None:
    arguments = (*system(130), torch.arange(units) % 3 == 0)
    before = [each.clone() for each in arguments]
    gram, metric, weight, protected = arguments
    removals = int((~protected).sum())
    kept = removal_curve(gram, metric, weight, units, site="ffn", removals=removals, protected=protected)
    assert sorted(kept.order.tolist()) == (~before[3]).nonzero()[:, 0].tolist()
    assert all(map(torch.equal, arguments, before))


def test_no_units_make_an_empty_curve() -> None:
    empty = torch.zeros(0, 0)
    curve = removal_curve(empty, torch.eye(3), torch.zeros(0, 3), 0, site="ffn")
    assert curve.order.shape == curve.cost.shape == (0,)


def test_damping_adds_a_share_of_the_mean_diagonal_to_a_copy() -> None:
    matrix = torch.tensor([[1.0, 2.0], [2.0, 7.0]])
    assert damped(matrix, 0.5).tolist() == [[3.0, 2.0], [2.0, 9.0]]
    assert matrix.tolist() == [[1.0, 2.0], [2.0, 7.0]]


def test_a_singular_metric_names_the_site() -> None:
    gram, _, weight = system(6)
    with pytest.raises(NumericalError, match=r"site encoder\.ffn .*damping"):
        removal_curve(gram, torch.zeros(5, 5), weight, 6, site="encoder.ffn")
