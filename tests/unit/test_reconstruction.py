"""The refit equals least squares from a library, and ridge regression in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trimformer.errors import NumericalError
from trimformer.observing.sums import BLOCK, RegressionSums
from trimformer.pruning.refit.least_squares import solve

TOKENS, FEATURES, OUTPUTS = 200, 7, 5


@pytest.fixture
def regression() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs with a mean, targets, prior weights, bias."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((TOKENS, FEATURES), (TOKENS, OUTPUTS), (FEATURES, OUTPUTS), (OUTPUTS,))
    inputs, targets, prior, bias = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return inputs + 1, targets + inputs[:, :OUTPUTS], prior, bias


def sums_of(inputs: Tensor, targets: Tensor, batch: int = 64) -> RegressionSums:
    sums = RegressionSums(inputs.shape[1], targets.shape[1], "cpu")
    for start in range(0, len(inputs), batch):
        sums.add(inputs[start : start + batch], targets[start : start + batch])
    return sums


def with_one(inputs: Tensor) -> Tensor:
    return torch.cat([inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)], dim=1)


def test_without_ridge_it_is_least_squares(regression: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    inputs, targets, prior, bias = regression
    refit = solve(sums_of(inputs, targets), prior, bias, ridge=0, intercept=False, site="s")
    torch.testing.assert_close(refit.weight, torch.linalg.lstsq(inputs, targets - bias).solution)
    assert torch.equal(refit.bias, bias)


def test_without_ridge_but_intercept_it_is_least_squares_with_ones(
    regression: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    inputs, targets, prior, bias = regression
    refit = solve(sums_of(inputs, targets), prior, bias, ridge=0, intercept=True, site="s")
    expected = torch.linalg.lstsq(with_one(inputs), targets).solution
    torch.testing.assert_close(torch.cat([refit.weight, refit.bias[None]]), expected)


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("intercept", [False, True])
def test_ridge_in_closed_form(regression: tuple[Tensor, Tensor, Tensor, Tensor], ridge: float, intercept: bool) -> None:
    inputs, targets, prior, bias = regression
    refit = solve(sums_of(inputs, targets), prior, bias, ridge=ridge, intercept=intercept, site="s")
    design = with_one(inputs) if intercept else inputs
    wanted = targets if intercept else targets - bias
    strength = ridge * inputs.square().mean()  # the mean diagonal of the Gram matrix
    penalty = strength * torch.diag(torch.tensor([1.0] * FEATURES + [0.0] * intercept, dtype=torch.float64))
    start = torch.cat([prior, torch.zeros(1, OUTPUTS, dtype=torch.float64)]) if intercept else prior
    expected = torch.linalg.solve(design.T @ design / TOKENS + penalty, design.T @ wanted / TOKENS + penalty @ start)
    found = torch.cat([refit.weight, refit.bias[None]]) if intercept else refit.weight
    torch.testing.assert_close(found, expected)


def test_batches_do_not_matter(regression: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    inputs, targets, _, _ = regression
    one, many = sums_of(inputs, targets, TOKENS), sums_of(inputs, targets, 1)
    for of in ("gram", "covariance", "cross", "cross_covariance", "input_mean", "target_mean"):
        torch.testing.assert_close(getattr(one, of), getattr(many, of))
    assert one.tokens == TOKENS
    torch.testing.assert_close(one.gram, inputs.T @ inputs / TOKENS)
    torch.testing.assert_close(one.cross, inputs.T @ targets / TOKENS)
    torch.testing.assert_close(one.input_mean, inputs.mean(0))
    torch.testing.assert_close(one.target_mean, targets.mean(0))


@pytest.mark.parametrize("intercept", [False, True])
def test_no_features_leave_a_bias(regression: tuple[Tensor, Tensor, Tensor, Tensor], intercept: bool) -> None:
    _, targets, _, bias = regression
    sums = sums_of(targets[:, :0], targets)
    refit = solve(sums, torch.zeros(0, OUTPUTS), bias, ridge=0.1, intercept=intercept, site="s")
    assert refit.weight.shape == (0, OUTPUTS)
    torch.testing.assert_close(refit.bias, targets.mean(0) if intercept else bias)


def test_a_singular_system_is_an_error_that_names_the_site(regression: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    inputs, targets, prior, bias = regression
    inputs[:, 3] = 0
    with pytest.raises(NumericalError, match=r"singular system at site block\.2\.ffn .*ridge"):
        solve(sums_of(inputs, targets), prior, bias, ridge=0, intercept=False, site="block.2.ffn")
    refit = solve(sums_of(inputs, targets), prior, bias, ridge=1e-2, intercept=True, site="block.2.ffn")
    torch.testing.assert_close(refit.weight[3], prior[3])


def test_covariance_survives_means_that_dwarf_it() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = 1e4 + torch.randn(500, 4, generator=generator)
    sums = sums_of(inputs, torch.zeros(500, 1))
    expected = torch.cov(inputs.double().T, correction=0)
    torch.testing.assert_close(sums.covariance, expected, rtol=1e-3, atol=1e-3)


def test_selected_features_are_as_if_only_they_had_been_added(
    regression: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    inputs, targets, _, _ = regression
    kept = torch.tensor([0, 2, 3])
    selected, alone = sums_of(inputs, targets).select(kept), sums_of(inputs[:, kept], targets)
    for of in ("gram", "covariance", "cross", "cross_covariance", "input_mean", "target_mean", "tokens"):
        torch.testing.assert_close(getattr(selected, of), getattr(alone, of))


@pytest.mark.parametrize("weighted", [False, True])
def test_products_in_blocks_are_the_products(weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(90, 2 * BLOCK + 9, generator=generator), torch.randn(90, 3, generator=generator)
    weights = torch.rand(90, generator=generator) if weighted else None
    sums = RegressionSums(inputs.shape[1], 3, "cpu")
    for part in torch.arange(90).split(40):
        sums.add(inputs[part], targets[part], None if weights is None else weights[part])
    counted = torch.ones(90) if weights is None else weights
    scaled = inputs.double() * counted[:, None].double() / counted.double().sum()
    torch.testing.assert_close(sums.gram, scaled.T @ inputs.double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(sums.cross, scaled.T @ targets.double(), atol=1e-5, rtol=0)
