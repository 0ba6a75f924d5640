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

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from trimformer.pruning.factors import factor_of, scale_of

BLOCK, POOL = 96, 256
"""Removals that are applied together, and units among which these are guessed."""
ALIKE = 1e-6
"""Costs that differ by no more than this share of them are the same, and those below this share of the dearest."""
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
    stays = torch.zeros(units, dtype=torch.bool) if protected is None else protected
    count = units if removals is None else removals
    if units == gram.shape[0]:
        order, cost = _eliminate_neurons(inverse, values, stays, count, site)
    else:
        order, cost = _eliminate_heads(inverse, values, stays, count)
    return RemovalCurve(order, never_falling((cost / 2).cpu()))


def never_falling(costs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Pool costs that fall into their mean, so that none is below the one before: `(removals,)`, and by weight."""
    if not costs.numel():  # SciPy writes beyond the end of an empty array
        return costs
    pooled = isotonic_regression(costs.numpy(), weights=None if weights is None else weights.numpy())
    return torch.from_numpy(pooled.x.copy())


def _eliminate_heads(inverse: Tensor, values: Tensor, protected: Tensor, removals: int) -> tuple[Tensor, Tensor]:
    """Remove units of several features, all costs anew after each removal. Changes its arguments."""
    effect = values @ values.T
    features = torch.arange(len(inverse), device=inverse.device).reshape(protected.numel(), -1)
    left, stays = torch.arange(protected.numel()), protected.to(inverse.device)
    order, costs = [left[:0]], [inverse.new_zeros(0)]
    for _ in range(removals):
        lost = losses(inverse, effect, features[left]).masked_fill(stays[left], torch.inf)
        best = int(lost.argmin())
        remove(inverse, effect, features[left[best]])
        order.append(left[best, None])
        costs.append(lost[best, None])
        left = left[torch.arange(len(left)) != best]
    return torch.cat(order), torch.cat(costs)


def _eliminate_neurons(
    inverse: Tensor, values: Tensor, protected: Tensor, removals: int, site: str
) -> tuple[Tensor, Tensor]:
    """Remove units of one feature, in greedy order one by one, matrix updates by blocks. Changes its arguments."""
    left, stays = torch.arange(protected.numel(), device=inverse.device), protected.to(inverse.device, copy=True)
    order, costs, found = [left[:0]], [inverse.new_zeros(0)], 0
    while found < removals:
        picked, block_costs = _eliminate_block(inverse, values, stays, min(BLOCK, removals - found), site)
        order.append(left[picked])
        costs.append(block_costs)
        found += len(picked)
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


def _eliminate_block(
    inverse: Tensor, values: Tensor, protected: Tensor, count: int, site: str
) -> tuple[Tensor, Tensor]:
    """Remove up to `count` units and apply all updates at the end: indices and costs, `(removals,)`, at least one.

    Who goes is guessed among a few; from that follows what each unit would have cost at each step, and those that are
    guessed go as long as there was no cheaper one. So all large products are of whole blocks, and the order is greedy
    all the same.
    """
    norms = values.square().sum(1)
    now = (norms / inverse.diagonal()).masked_fill(protected, torch.inf)
    picked = _guess(inverse, values, now, count)
    gone, own, costs = _course(inverse, values, norms, picked, site)
    costs[:, protected] = torch.inf
    found = costs[torch.arange(len(picked)), picked]
    dearest = float(now[now.isfinite()].amax())
    dearer = found - costs.amin(1) > ALIKE * found.clamp(min=ALIKE * dearest)
    right = max(1, int((dearer.cumsum(0) == 0).sum()))
    values.addmm_(gone[:right].T, own[:right], alpha=-1)
    inverse.addmm_(gone[:right].T, gone[:right], alpha=-1)
    return picked[:right], own[:right].square().sum(1)


def _course(inverse: Tensor, values: Tensor, norms: Tensor, picked: Tensor, site: str) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what removing some units in turn would take off, and what each unit would cost before every step.

    `norms` are the values' squared norms, `(units,)`.

    Returns:
        `A`, `(steps, units)`, and `B`, `(steps, width)`: after `t` steps the inverse is less by `A[:t]ᵀ A[:t]`, the
        values by `A[:t]ᵀ B[:t]`. Then the costs, `(steps, units)`, infinite for units that are gone.
    """
    rows = inverse[picked]
    factor = factor_of(rows[:, picked], site, REMEDY)
    gone = torch.linalg.solve_triangular(factor, rows, upper=False)
    own = torch.linalg.solve_triangular(factor, values[picked], upper=False)
    between = own @ own.T
    overlap = (own @ values.T).sub_(between.tril(-1) @ gone)
    falls = overlap.mul_(2).sub_(gone * between.diagonal()[:, None]).mul_(gone)
    costs = _before(norms, falls).div_(_before(inverse.diagonal(), gone.square()))
    costs[:, picked] = costs[:, picked].masked_fill(torch.ones_like(between).tril(-1).bool(), torch.inf)
    return gone, own, costs


def _before(start: Tensor, falls: Tensor) -> Tensor:
    """Give what is left of numbers, `(units,)`, before each step: in place of its fall, `(steps, units)`."""
    return falls.sub_(falls.cumsum(0)).add_(start)


@np.errstate(all="ignore")  # a matrix that is not definite is told when the guesses are checked
def _guess(inverse: Tensor, values: Tensor, costs: Tensor, count: int) -> Tensor:
    """Remove units from the cheapest few as if these were all: up to `count` indices, of which the first is right.

    What a removal takes off is kept as rows, `A` as in `_course` and `H` of the products `E = V Vᵀ`, which fall to
    `E - Aᵀ H - Hᵀ A`; so no step writes a matrix. Vectors are short, and NumPy's are quicker to call.
    """
    pool = costs.argsort(stable=True)[:POOL]
    inside, own = inverse[pool[:, None], pool].cpu().numpy(), values[pool]
    products = (own @ own.T).cpu().numpy()
    diagonal, norms = inside.diagonal().copy(), products.diagonal().copy()
    norms[costs[pool].isinf().cpu().numpy()] = np.inf
    picked = np.zeros(min(count, len(pool)), dtype=np.int64)
    gone, half = np.zeros((2, len(picked), len(pool)))
    for step in range(len(picked)):
        one = picked[step] = (norms / diagonal).argmin()
        gone_before, half_before = gone[:step], half[:step]
        root = np.sqrt(diagonal[one])
        row = (inside[one] - gone_before[:, one] @ gone_before) / root
        between = products[one] - gone_before[:, one] @ half_before - half_before[:, one] @ gone_before
        gone[step] = row
        half[step] = between / root - row * (between[one] / (2 * diagonal[one]))
        norms -= 2 * row * half[step]
        diagonal -= row * row
        norms[one], diagonal[one] = np.inf, 1.0
    return pool[torch.from_numpy(picked).to(pool.device)]


def losses(inverse: Tensor, effect: Tensor, groups: Tensor) -> Tensor:
    """Compute what is lost with each group of features, `(groups, features)` -> `(groups,)`; as for `remove`."""
    rows, columns = groups[:, :, None], groups[:, None, :]
    own: Tensor = torch.linalg.solve(inverse[rows, columns], effect[rows, columns])
    return own.diagonal(dim1=1, dim2=2).sum(1)


def remove(inverse: Tensor, effect: Tensor, gone: Tensor) -> None:
    """Remove features in place, the others making up for them as well as they can; theirs are not to be read again.

    Args:
        inverse: `P`, of the Gram matrix, `(features, features)`.
        effect: `V Vᵀ`, products of all features' weights in the metric, `(features, features)`.
        gone: which go, `(removals,)`.
    """
    share = torch.linalg.solve(inverse[gone][:, gone], inverse[gone]).T
    own = effect[gone]
    half = own - own[:, gone] @ share.T / 2
    inverse.addmm_(share, inverse[gone], alpha=-1)
    effect.addmm_(torch.cat([share, half.T], dim=1), torch.cat([half, share.T]), alpha=-1)
