"""Removal curves: the order in which units of a site go, and what each costs. Optimal brain surgeon on whole units.

Pure functions of tensors; memory `features²` for one site.

With the inputs' second moment `G` (`features × features`) and the metric `M` of the output (`width × width`), a change
`ΔW` of the output projection costs `½ tr(ΔWᵀ G ΔW M)`. Removing unit `u` and letting all others make up for it costs

    cost(u) = ½ tr( W_uᵀ (P_uu)⁻¹ W_u M )     then     W ← W − P_:u P_uu⁻¹ W_u,   P ← P − P_:u P_uu⁻¹ P_u:

with `P = G⁻¹`. Greedily the cheapest goes first, until none is left. Since `M = L Lᵀ` enters only through `W L`, the
elimination runs on `V = W L`, and the cost is a squared norm.

Source: optimal brain surgeon (Hassibi & Stork 1992), for groups as in ZipLM (arXiv 2302.04089). Ours: the metric `M`
from the model's own Fisher information, and the exact greedy order with updates in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from trimformer.pruning.factors import factor_of, scale_of

BLOCK = 64
REMEDY = "more calibration tokens, or stronger damping (`damping=1` or `curve_ridge=1e-3`)"


@dataclass(frozen=True)
class RemovalCurve:
    """Units of one site in the order of their removal, and the cost of each removal, both `(units,)`."""

    order: Tensor
    cost: Tensor


def damped(matrix: Tensor, strength: float) -> Tensor:
    """Copy a symmetric matrix to float64, with `strength` times the mean of its diagonal added to the diagonal."""
    raised = matrix.double().clone()
    raised.diagonal().add_(strength * scale_of(raised))
    return raised


def removal_curve(  # noqa: PLR0913  # two say where the curve ends, one is for the error
    gram: Tensor,
    metric: Tensor,
    weight: Tensor,
    units: int,
    *,
    site: str,
    removals: int | None = None,
    protected: Tensor | None = None,
) -> RemovalCurve:
    """Compute the greedy removal of all units of a site, or of the first that go.

    Args:
        gram: `(features, features)`, mean over tokens of input times input; positive definite, see `damped`.
        metric: `(width, width)`, second moment of the gradient at the output; positive definite.
        weight: `(features, width)`.
        units: number of units; each has `features / units` consecutive features.
        site: name for the error.
        removals: where the curve ends; None goes on until no unit is left.
        protected: units that never go, `(units,)`, with as many `removals` as there are others, or fewer.

    Raises:
        NumericalError: a matrix is not positive definite.
    """
    if units == 0:
        return RemovalCurve(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.float64))
    inverse = torch.cholesky_inverse(factor_of(gram.double(), site, REMEDY))
    values = weight.double() @ factor_of(metric.double(), site, REMEDY)
    eliminate = _eliminate_neurons if units == gram.shape[0] else _eliminate_heads
    stays = torch.zeros(units, dtype=torch.bool) if protected is None else protected
    order, cost = eliminate(inverse, values, stays, units if removals is None else removals)
    return RemovalCurve(order, never_falling((cost / 2).cpu()))


def never_falling(costs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Pool costs that fall into their mean, so that none is below the one before: `(removals,)`, and by weight."""
    if not costs.numel():  # SciPy writes beyond the end of an empty array
        return costs
    pooled = isotonic_regression(costs.numpy(), weights=None if weights is None else weights.numpy())
    return torch.from_numpy(pooled.x.copy())


def _eliminate_heads(inverse: Tensor, values: Tensor, protected: Tensor, removals: int) -> tuple[Tensor, Tensor]:
    """Remove units of several features, all costs anew after each removal. Changes its arguments."""
    units = protected.numel()
    size = inverse.shape[0] // units
    features = torch.arange(inverse.shape[0]).reshape(units, size)
    left = list(range(units))
    order: list[int] = []
    costs: list[float] = []
    while len(order) < removals:
        blocks = torch.stack([inverse[features[unit]][:, features[unit]] for unit in left])
        own = torch.stack([values[features[unit]] for unit in left])
        candidates = (own * torch.linalg.solve(blocks, own)).sum((1, 2))
        candidates[protected[left].to(candidates.device)] = torch.inf
        best = int(candidates.argmin())
        gone = features[left[best]]
        share = torch.linalg.solve(blocks[best], inverse[gone]).T
        values -= share @ values[gone]
        inverse -= share @ inverse[gone].clone()
        order.append(left.pop(best))
        costs.append(float(candidates[best]))
    return torch.tensor(order, dtype=torch.long), torch.tensor(costs, dtype=torch.float64)


def _eliminate_neurons(inverse: Tensor, values: Tensor, protected: Tensor, removals: int) -> tuple[Tensor, Tensor]:
    """Remove units of one feature, in greedy order one by one, matrix updates by blocks. Changes its arguments.

    Inside a block the updates since its start are kept as columns `share` and rows `gone`, so that the current
    matrices are `inverse − share @ gone_inverse` and `values − share @ gone_values`; diagonal and squared norms are
    updated at once.
    """
    left, stays = torch.arange(protected.numel(), device=inverse.device), protected.to(inverse.device, copy=True)
    order, costs = [left[:0]], [inverse.new_zeros(0)]
    for start in range(0, removals, BLOCK):
        picked, block_costs = _eliminate_block(inverse, values, stays, min(BLOCK, removals - start))
        order.append(left[picked])
        costs.append(block_costs)
        inverse, values, left, stays = _close_gaps(picked, inverse, values, left, stays)
    return torch.cat(order).cpu(), torch.cat(costs).cpu()


def _close_gaps(
    gone: Tensor, inverse: Tensor, values: Tensor, left: Tensor, stays: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Move the last units into the places of those that are gone, and give the beginnings that then hold all others.

    To copy what stays of a large matrix takes longer than all that is computed with it.
    """
    size = len(left) - len(gone)
    is_left = torch.ones(len(left), dtype=torch.bool, device=left.device).index_fill(0, gone, value=False)
    free, moved = (~is_left[:size]).nonzero()[:, 0], size + is_left[size:].nonzero()[:, 0]
    inverse[:, free] = inverse[:, moved]
    for each in (inverse, values, left, stays):
        each[free] = each[moved]
    return inverse[:size, :size], values[:size], left[:size], stays[:size]


def _eliminate_block(inverse: Tensor, values: Tensor, protected: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Remove `count` units and apply all updates at the end: `(count,)` indices and costs."""
    size, width = values.shape
    share = inverse.new_zeros(size, count)
    gone_inverse, gone_values = inverse.new_zeros(count, size), inverse.new_zeros(count, width)
    diagonal, norms = inverse.diagonal().clone(), values.square().sum(1).masked_fill(protected, torch.inf)
    picked = torch.zeros(count, dtype=torch.long, device=inverse.device)
    costs = inverse.new_zeros(count)
    for step in range(count):
        unit = (norms / diagonal).argmin()
        row = inverse[unit] - share[unit, :step] @ gone_inverse[:step]
        own = values[unit] - share[unit, :step] @ gone_values[:step]
        picked[step], costs[step] = unit, norms[unit] / diagonal[unit]
        column = row / row[unit]
        overlap = values @ own - share[:, :step] @ (gone_values[:step] @ own)
        norms += column * (column * norms[unit] - 2 * overlap)
        diagonal -= column * row
        norms[picked[: step + 1]] = torch.inf
        diagonal[picked[: step + 1]] = 1.0
        norms.clamp_(min=0)
        share[:, step], gone_inverse[step], gone_values[step] = column, row, own
    values.addmm_(share, gone_values, alpha=-1)
    inverse.addmm_(share, gone_inverse, alpha=-1)
    return picked, costs
