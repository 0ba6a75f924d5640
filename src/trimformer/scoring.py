"""Statistics -> importance of units. Pure functions of tensors."""

from __future__ import annotations

from torch import Tensor


def unit_second_moments(inputs: Tensor, units: int) -> Tensor:
    """Sum over tokens of each unit's output times itself: `(tokens, features)` -> `(units, unit_width, unit_width)`."""
    tokens, features = inputs.shape
    if units == features:
        return inputs.square().sum(0)[:, None, None]
    by_unit = inputs.reshape(tokens, units, -1).permute(1, 2, 0)
    return by_unit @ by_unit.transpose(1, 2)


def output_energy(second_moments: Tensor, unit_weights: Tensor) -> Tensor:
    """Mean squared norm of what each unit adds to the residual stream, `Σ_t ‖h_u(x_t) W_u‖²`.

    `(units, unit_width, unit_width)` and `(units, unit_width, width)` -> `(units,)`.
    """
    weights: Tensor = unit_weights.to(second_moments.dtype)
    projected = second_moments @ weights
    return (projected * weights).sum((1, 2))


def mask_gradients(inputs: Tensor, gradients: Tensor, units: int) -> Tensor:
    """Derivative of each sequence's loss with respect to the units' masks: `∂L/∂m_u = Σ_t ⟨h_u(x_t), ∂L/∂h_u(x_t)⟩`.

    `(batch, length, features)` twice -> `(batch, units)`; padded positions have gradient zero.
    """
    by_feature = (inputs.float() * gradients.float()).sum(1)
    return by_feature.reshape(len(inputs), units, -1).sum(-1)
