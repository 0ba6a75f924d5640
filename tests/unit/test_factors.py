"""Cholesky factors: of what rounding alone made indefinite, near the true one; of nothing else."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from trimformer.errors import NumericalError
from trimformer.observing.sums import RegressionSums
from trimformer.pruning.choose.curves import damped, removal_curve
from trimformer.pruning.factors import factor_of
from trimformer.pruning.refit.least_squares import solve

TOKENS, FEATURES, WIDTH = 4096, 96, 8


def inputs(seed: int = 0) -> Tensor:
    """Features of variance one, and four that vary a thousand times as much, and nearly alike."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(TOKENS, FEATURES, generator=generator, dtype=torch.float64)
    one = torch.randn(TOKENS, 1, generator=generator, dtype=torch.float64)
    values[:, :4] = 1e4 * (one + 1e-5 * values[:, :4])
    return values


def summed(values: Tensor) -> Tensor:
    sums = RegressionSums(FEATURES, 0, "cpu")
    for batch in values.float().split(512):
        sums.add_inputs(batch)
    return sums.covariance


def test_what_rounding_made_indefinite_has_a_factor_near_the_true_one() -> None:
    values = inputs()
    exact, rounded = values.T.cov(correction=0), summed(values)
    raised = damped(rounded, 1e-12)
    assert float(torch.linalg.eigvalsh(raised).min()) < 0, "or there is nothing to be shown"
    factor = factor_of(raised, "here", "more")
    scale = exact.diagonal().rsqrt()
    off = (factor @ factor.T - exact) * scale[:, None] * scale[None, :]
    assert float(off.abs().max()) < 2e-5


def test_other_units_go_in_the_order_of_exact_sums_but_for_ties() -> None:
    values = inputs(1)
    weight = torch.randn(FEATURES, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    metric = torch.eye(WIDTH, dtype=torch.float64)
    exact, found = (
        removal_curve(damped(gram, 1e-12), metric, weight, FEATURES, site="here")
        for gram in (values.T.cov(correction=0), summed(values))
    )
    others = [[unit for unit in curve.order.tolist() if unit >= 4] for curve in (exact, found)]
    places = ([order.index(unit) for unit in range(4, FEATURES)] for order in others)
    assert spearmanr(*places).statistic > 0.999
    assert bool(found.cost.isfinite().all())


def test_a_refit_of_such_sums_has_a_solution_with_a_ridge_alone() -> None:
    values, generator = inputs(3), torch.Generator().manual_seed(4)
    targets = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64) + values[:, 8:16]
    sums = RegressionSums(FEATURES, WIDTH, "cpu")
    for rows, wanted in zip(values.float().split(512), targets.float().split(512), strict=True):
        sums.add(rows, wanted)
    prior, bias = torch.zeros(FEATURES, WIDTH), torch.zeros(WIDTH)
    assert float(torch.linalg.eigvalsh(sums.covariance).min()) < 0, "or there is nothing to be shown"
    with pytest.raises(NumericalError, match="singular system at site here"):
        solve(sums, prior, bias, ridge=0.0, intercept=True, site="here")
    refit = solve(sums, prior, bias, ridge=1e-12, intercept=True, site="here")
    missed = (values @ refit.weight + refit.bias - targets).square().sum() / targets.sub(targets.mean(0)).square().sum()
    assert float(missed) < 0.55, "half of the targets' variance is noise, the other half in the inputs"


def test_a_definite_matrix_has_its_own_factor() -> None:
    matrix = damped(summed(inputs()), 1.0)
    assert torch.equal(factor_of(matrix, "here", "more"), torch.linalg.cholesky(matrix))


def test_what_is_not_definite_by_more_than_rounding_is_refused() -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 1] = matrix[1, 0] = 1.01
    with pytest.raises(NumericalError, match=r"singular system at site here \(condition number .*\): use more tokens"):
        factor_of(matrix, "here", "more tokens")
