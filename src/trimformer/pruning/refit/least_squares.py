"""Refit: least squares for a consumer's weights from Gram matrix and cross products. Pure functions of tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimformer.observing.sums import RegressionSums
from trimformer.pruning.factors import factor_of, not_definite, scale_of

REMEDY = "more calibration tokens, or a stronger ridge (`ridge=0.1`)"


@dataclass(frozen=True)
class Refit:
    """New weights of a consumer: `weight` is `(features, outputs)`, `bias` `(outputs,)`."""

    weight: Tensor
    bias: Tensor


def solve(sums: RegressionSums, prior: Tensor, bias: Tensor, *, ridge: float, intercept: bool, site: str) -> Refit:
    """Solve least squares with a ridge towards given weights:

        min_{W,b} mean_t ‖ y_t − h_t W − b ‖² + ridge · mean(diag G) · ‖ W − prior ‖²

    Args:
        sums: of `h` and `y`.
        prior: `(features, outputs)`, what the ridge pulls to: the dense weights of the kept units.
        bias: `(outputs,)`, the bias that stays where there is no intercept.
        ridge: relative to the mean diagonal of the Gram matrix; at least 0.
        intercept: also fit `b`.
        site: name for the error.

    Raises:
        NumericalError: the system is singular, with a ridge by more than its rounding; a larger ridge is the remedy.

    Source: K-prune (arXiv 2308.03449) KPWT without ridge and intercept; both are additions of ours.
    """
    if not sums.features:
        return Refit(prior.double(), sums.target_mean if intercept else bias.double())
    if intercept:
        gram, cross = sums.covariance, sums.cross_covariance
    else:
        gram, cross = sums.gram, sums.cross - torch.outer(sums.input_mean, bias.double())
    strength = ridge * scale_of(sums.gram)
    gram.diagonal().add_(strength)
    right = cross + strength * prior.double()
    weight = torch.cholesky_solve(right, factor_of(gram, site, REMEDY)) if ridge else spd_solve(gram, right, site)
    return Refit(weight, sums.target_mean - sums.input_mean @ weight if intercept else bias.double())


def spd_solve(matrix: Tensor, right: Tensor, site: str) -> Tensor:
    """Solve a symmetric positive definite system in float64.

    Raises:
        NumericalError: it is not positive definite; names the site and the condition number.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        raise not_definite(matrix, site, REMEDY)
    return torch.cholesky_solve(right, factor)
