"""Refit: least squares for a consumer's weights from Gram matrix and cross products. Pure functions of tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimformer.errors import NumericalError


class RegressionSums:
    """Running float64 sums of a regression of targets `(tokens, outputs)` on inputs `(tokens, features)`.

    One matrix product a batch, in the inputs' own precision; memory `features × (features + outputs)`.
    """

    def __init__(self, features: int, outputs: int, device: torch.device | str) -> None:
        self.features = features
        size = features + 1
        self.products = torch.zeros(size, size + outputs, dtype=torch.float64, device=device)

    def add(self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        """Add the rows of a batch, padding already removed; each counts once, or `weights` `(tokens,)` times."""
        with_one = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        weighted = with_one if weights is None else with_one * weights[:, None]
        self.products += weighted.T @ torch.cat([with_one, targets], dim=1)

    def select(self, kept: Tensor) -> RegressionSums:
        """The sums as if only some features had been added: `(kept,)` indices."""
        chosen = RegressionSums.__new__(RegressionSums)
        chosen.features = len(kept)
        size, width = self.products.shape
        rows = torch.cat([kept, torch.tensor([self.features], device=kept.device)])
        columns = torch.cat([rows, torch.arange(size, width, device=kept.device)])
        chosen.products = self.products[rows][:, columns]
        return chosen

    @property
    def tokens(self) -> float:
        """Number of rows added, or sum of their weights."""
        return float(self.products[-1, self.features])

    @property
    def gram(self) -> Tensor:
        """Mean of input times input: `(features, features)`."""
        return self.products[:-1, : self.features] / self.tokens

    @property
    def covariance(self) -> Tensor:
        """Mean of centred input times centred input: `(features, features)`."""
        return self.gram - torch.outer(self.input_mean, self.input_mean)

    @property
    def cross(self) -> Tensor:
        """Mean of input times target: `(features, outputs)`."""
        return self.products[:-1, self.features + 1 :] / self.tokens

    @property
    def input_mean(self) -> Tensor:
        """`(features,)`."""
        return self.products[:-1, self.features] / self.tokens

    @property
    def target_mean(self) -> Tensor:
        """`(outputs,)`."""
        return self.products[-1, self.features + 1 :] / self.tokens


@dataclass(frozen=True)
class Refit:
    """New weights of a consumer: `weight` is `(features, outputs)`, `bias` `(outputs,)`."""

    weight: Tensor
    bias: Tensor


def solve(sums: RegressionSums, prior: Tensor, bias: Tensor, *, ridge: float, intercept: bool, site: str) -> Refit:
    """Least squares with a ridge towards given weights:

        min_{W,b} mean_t ‖ y_t − h_t W − b ‖² + ridge · mean(diag G) · ‖ W − prior ‖²

    Args:
        sums: of `h` and `y`.
        prior: `(features, outputs)`, what the ridge pulls to: the dense weights of the kept units.
        bias: `(outputs,)`, the bias that stays where there is no intercept.
        ridge: relative to the mean diagonal of the Gram matrix; at least 0.
        intercept: also fit `b`.
        site: name for the error.

    Raises:
        NumericalError: the system is singular; a larger ridge is the remedy.

    Source: K-prune (arXiv 2308.03449) KPWT without ridge and intercept; both are additions of ours.
    """
    if not sums.features:
        return Refit(prior.double(), sums.target_mean if intercept else bias.double())
    gram, cross = (sums.covariance if intercept else sums.gram), sums.cross
    if intercept:
        cross = cross - torch.outer(sums.input_mean, sums.target_mean)
    else:
        cross = cross - torch.outer(sums.input_mean, bias.double())
    strength = ridge * float(sums.gram.diagonal().mean())
    gram.diagonal().add_(strength)
    weight = spd_solve(gram, cross + strength * prior.double(), site)
    return Refit(weight, sums.target_mean - sums.input_mean @ weight if intercept else bias.double())


def spd_solve(matrix: Tensor, right: Tensor, site: str) -> Tensor:
    """Solve a symmetric positive definite system in float64.

    Raises:
        NumericalError: it is not positive definite; names the site and the condition number.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        raise NumericalError(
            f"singular system at site {site} (condition number {float(torch.linalg.cond(matrix)):.1e}): "
            "use more calibration tokens, or a stronger ridge (--set ridge=0.1)"
        )
    return torch.cholesky_solve(right, factor)
