"""Running sums that a regression is solved from: Gram matrix, cross products and means."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 256
"""Rows of the products that are computed at once."""


class RegressionSums:
    """Running float64 sums of a regression of targets `(tokens, outputs)` on inputs `(tokens, features)`.

    Float32 matrix products, of the symmetric part little more than half; memory `features × (features + outputs)`.
    Inputs are shifted by their mean over the first batch before they are multiplied, so that the covariance does not
    drown in the rounding of large means. Where sums over parts of the rows are added up afterwards, `agree` makes one
    shift for all of them out of each part's own.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        device: torch.device | str,
        agree: Callable[[Tensor], Tensor] = lambda shift: shift,
    ) -> None:
        self.features = features
        self._agree = agree
        self._begun = False
        size = features + 1
        self._products = torch.zeros(size, size + outputs, dtype=torch.float64, device=device)
        self._half = False
        self.shift = torch.zeros(features, dtype=torch.float64, device=device)

    def add(self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        """Add the rows of a batch, padding already removed; each counts once, or `weights` `(tokens,)` times."""
        if not self._begun:
            self._begun = True
            self.shift = self._agree(inputs.double().mean(0).float().double())
        shifted = torch.cat([inputs - self.shift.to(inputs), inputs.new_ones(len(inputs), 1)], dim=1)
        weighted = shifted if weights is None else shifted * weights[:, None]
        right = torch.cat([shifted, targets], dim=1)
        for start, stop in self._blocks():
            self._products[start:stop, start:] += weighted[:, start:stop].T @ right[:, start:]
        self._half = True

    def add_inputs(self, inputs: Tensor) -> None:
        """Add the rows of a batch where there are no targets."""
        self.add(inputs, inputs.new_empty(len(inputs), 0))

    def select(self, kept: Tensor) -> RegressionSums:
        """Give the sums as if only some features had been added: `(kept,)` indices."""
        size, width = self.products.shape
        chosen = RegressionSums(len(kept), width - size, self.products.device)
        rows = torch.cat([kept, torch.tensor([self.features], device=kept.device)])
        columns = torch.cat([rows, torch.arange(size, width, device=kept.device)])
        chosen._products, chosen.shift = self.products[rows][:, columns], self.shift[kept]
        return chosen

    @property
    def products(self) -> Tensor:
        """Sums of `[input − shift, 1]ᵀ [input − shift, 1, target]`: `(features + 1, features + 1 + outputs)`.

        Rows are added above the diagonal only; what is below is copied from there when it is asked for.
        """
        if self._half:
            self._half = False
            for start, stop in self._blocks():
                self._products[stop:, start:stop] = self._products[start:stop, stop : self.features + 1].T
        return self._products

    @property
    def tokens(self) -> float:
        """Number of rows added, or sum of their weights."""
        return float(self.products[-1, self.features])

    @property
    def covariance(self) -> Tensor:
        """Mean of centred input times centred input: `(features, features)`."""
        mean = self._shifted_mean
        return self.products[:-1, : self.features] / self.tokens - torch.outer(mean, mean)

    @property
    def gram(self) -> Tensor:
        """Mean of input times input: `(features, features)`."""
        return self.covariance + torch.outer(self.input_mean, self.input_mean)

    @property
    def cross_covariance(self) -> Tensor:
        """Mean of centred input times centred target: `(features, outputs)`."""
        cross = self.products[:-1, self.features + 1 :] / self.tokens
        return cross - torch.outer(self._shifted_mean, self.target_mean)

    @property
    def cross(self) -> Tensor:
        """Mean of input times target: `(features, outputs)`."""
        return self.cross_covariance + torch.outer(self.input_mean, self.target_mean)

    @property
    def input_mean(self) -> Tensor:
        """Mean of the inputs, `(features,)`."""
        return self._shifted_mean + self.shift

    @property
    def target_mean(self) -> Tensor:
        """Mean of the targets, `(outputs,)`."""
        return self.products[-1, self.features + 1 :] / self.tokens

    def _blocks(self) -> list[tuple[int, int]]:
        size = self.features + 1
        return [(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]

    @property
    def _shifted_mean(self) -> Tensor:
        return self.products[:-1, self.features] / self.tokens
