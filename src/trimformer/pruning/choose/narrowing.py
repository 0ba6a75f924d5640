"""Removal curves of attention by dimension: heads go, or one dimension of all heads left, whichever is cheaper.

Heads of a layer must stay alike, so what stays is a rectangle, so many heads of so many dimensions each, and a curve
goes through rectangles only. A dimension is one of queries, keys, values and of what the output projection reads: it
costs what its values are missed, by optimal brain surgeon as in `curves`, and what its scores are missed.

Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimformer.pruning.choose.curves import REMEDY, RemovalCurve, losses, never_falling, remove
from trimformer.pruning.factors import factor_of

Shape = tuple[int, int]
"""Heads, and dimensions of each."""
HEAD_OVERHEAD = 16
"""What a head saves beside its dimensions, counted in these: no cost tells of it, but softmax and copies take time."""


@dataclass(frozen=True)
class NarrowingCurve:
    """A removal curve of dimensions, and where on it heads are alike."""

    curve: RemovalCurve
    sizes: Tensor
    """Numbers of dimensions that may stay, rising from the least to all, `(steps + 1,)`."""


def narrowing_curve(  # noqa: PLR0913  # three say where it goes and ends, one is for the error
    gram: Tensor,
    metric: Tensor,
    weight: Tensor,
    scores: Tensor,
    heads: int,
    *,
    site: str,
    step: int = 1,
    least: Shape = (0, 0),
) -> NarrowingCurve:
    """Compute the greedy removal of all heads and dimensions of a site, or of all but so many.

    Args:
        gram: `(units, units)`, mean over tokens of input times input, head by head; positive definite.
        metric: `(width, width)`, second moment of the gradient at the output; positive definite.
        weight: `(units, width)`.
        scores: `(units,)`, mean over sequences of the squared change of the log-likelihood, to first order, where a
            dimension of the queries is missing.
        heads: of so many.
        site: name for the error.
        step: heads that stay have a multiple of this many dimensions, or of a quarter of them where that is less.
        least: heads that stay, and dimensions of each.

    Raises:
        NumericalError: a matrix is not positive definite.
    """
    inverse = torch.cholesky_inverse(factor_of(gram.double(), site, REMEDY))
    values = weight.double() @ factor_of(metric.double(), site, REMEDY)
    effect = values @ values.T
    units = torch.arange(len(gram), device=gram.device).reshape(heads, -1)
    asked = scores.double().to(gram.device).reshape(units.shape)
    step = max(1, min(step, units.shape[1] // 4))
    order, costs, sizes = list[Tensor](), list[Tensor](), [units.numel()]
    while units.numel() and units.shape != least:
        of_head = losses(inverse, effect, units)
        of_dimension = losses(inverse, effect, units.T) + asked.sum(0)
        rows, columns = units.shape
        head, dimension = int(of_head.argmin()), int(of_dimension.argmin())
        begun = columns % step
        together = of_dimension.topk(begun or step, largest=False).values.mean()
        dearer = float(of_head[head]) / (columns + HEAD_OVERHEAD) > float(together) / rows
        if columns > least[1] and (begun or dearer or rows == least[0]):
            axis, best, cost = 1, dimension, of_dimension[dimension]
        else:
            axis, best, cost = 0, head, of_head[head]
        gone = units.select(axis, best)
        remove(inverse, effect, gone)
        order.append(gone)
        costs.append((cost / len(gone)).expand(len(gone)))
        units, asked = _without(units, axis, best), _without(asked, axis, best)
        if units.shape == least or units.shape[1] % step == 0:
            sizes.append(units.numel())
    found = RemovalCurve(torch.cat(order).cpu(), never_falling((torch.cat(costs) / 2).cpu()))
    return NarrowingCurve(found, torch.tensor(sizes[::-1]))


def rectangle(order: Tensor, width: int, shape: Shape) -> Tensor:
    """Keep so many heads of so many dimensions, those that a curve removes last: mask, `(units,)`.

    Args:
        order: of removal, `(units,)`, head by head as they are numbered.
        width: dimensions of a head.
        shape: heads, and dimensions of each.
    """
    place = torch.empty_like(order).scatter(0, order, torch.arange(len(order))).reshape(-1, width)
    heads, dimensions = (place.amax(axis).argsort(descending=True) for axis in (1, 0))
    mask = torch.zeros_like(place, dtype=torch.bool)
    mask[heads[: shape[0], None], dimensions[: shape[1]]] = True
    return mask.flatten()


def stepped_table(table: Tensor, sizes: Tensor) -> Tensor:
    """Make any count of units cost as much as the next of some sizes: `(units + 1,)` both.

    >>> stepped_table(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0, 1, 3]))
    tensor([0., 1., 3., 3.])
    """
    return table[sizes[torch.searchsorted(sizes, torch.arange(len(table)))]]


def _without(values: Tensor, axis: int, index: int) -> Tensor:
    keep = torch.arange(values.shape[axis], device=values.device) != index
    return values[keep] if axis == 0 else values[:, keep]
