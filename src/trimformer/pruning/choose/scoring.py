"""Statistics -> importance of units. Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from trimformer.errors import NumericalError

MAX_ITERATIONS = 1000
LOOSEST_TOLERANCE = 0.05
"""Largest tolerance of R2: above, the first iteration may already seem to be the last."""


def unit_second_moments(inputs: Tensor, units: int) -> Tensor:
    """Sum each unit's output times itself over tokens: `(tokens, features)` -> `(units, unit_width, unit_width)`."""
    tokens, features = inputs.shape
    if units == features:
        return inputs.square().sum(0)[:, None, None]
    by_unit = inputs.reshape(tokens, units, -1).permute(1, 2, 0)
    return by_unit @ by_unit.transpose(1, 2)


def output_energy(second_moments: Tensor, unit_weights: Tensor) -> Tensor:
    """Sum the squared norm of what each unit adds to the residual stream over tokens, `Σ_t ‖h_u(x_t) W_u‖²`.

    `(units, unit_width, unit_width)` and `(units, unit_width, width)` -> `(units,)`.
    """
    weights: Tensor = unit_weights.to(second_moments.dtype)
    projected = second_moments @ weights
    return (projected * weights).sum((1, 2))


def mask_gradients(inputs: Tensor, gradients: Tensor, units: int) -> Tensor:
    """Differentiate each sequence's loss by the units' masks: `∂L/∂m_u = Σ_t ⟨h_u(x_t), ∂L/∂h_u(x_t)⟩`.

    `(batch, length, features)` twice -> `(batch, units)`; padded positions have gradient zero.
    """
    by_feature = (inputs.float() * gradients.float()).sum(1)
    return by_feature.reshape(len(inputs), units, -1).sum(-1)


def convex_representation(vectors: Tensor, sigma: float, tolerance: float) -> Tensor:
    """Measure how much each vector is needed to represent all as convex combinations: `(units, width)` -> `(units,)`.

    With `K_ij = exp(−‖w_i − w_j‖² / σ²)` of the vectors at length 1, `C ← C ∘ (K / (K C))^½` is iterated from
    `C = 1 / units` until `‖ΔC‖ < tolerance · ‖C‖`; the result is `diag(C)`. Where `K_ij` is too small for a number,
    `C_ij` is 0.

    Raises:
        NumericalError: no convergence; a larger tolerance is the remedy.

    Source: KCM (arXiv 2303.04185), the representative ranking R2.
    """
    unit = torch.nn.functional.normalize(vectors, dim=1)
    kernel = ((unit @ unit.T - 1) * (2 / sigma**2)).clamp(max=0).fill_diagonal_(0).exp()
    least = torch.finfo(kernel.dtype).tiny
    coefficients = torch.full_like(kernel, 1 / len(kernel))
    for _ in range(MAX_ITERATIONS):
        updated = coefficients * (kernel / (kernel @ coefficients).clamp(min=least)).sqrt()
        change = float((updated - coefficients).norm())
        coefficients = updated
        if change < tolerance * float(coefficients.norm()):
            return coefficients.diagonal()
    larger = min(10 * tolerance, LOOSEST_TOLERANCE)
    raise NumericalError(f"R2 does not settle within {MAX_ITERATIONS} iterations: use `tolerance={larger:g}`")
