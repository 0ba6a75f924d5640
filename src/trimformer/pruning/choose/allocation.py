"""Heads against neurons: how a budget is divided between them, and which of a sublayer's units go. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimformer.model.sites import Masks, Scores
from trimformer.pruning.budget import CostTables
from trimformer.pruning.choose.bounds import FREE, MUST, MUST_NOT, Bounds
from trimformer.pruning.choose.search import ROUNDING, keep_best


@dataclass(frozen=True)
class _Ranking:
    """Units of one kind, best first: `order` `(units,)`; `cost` and `score` of the best 0, 1, … of them together."""

    order: Tensor
    cost: Tensor
    score: Tensor
    least: int
    """Number of the first units, which stay."""
    most: int
    """Number of those that may stay; the last ones go."""


def best_split(heads: Scores, neurons: Scores, tables: CostTables, limit: float, bounds: Bounds = FREE) -> Masks:
    """Keep the best heads and the best neurons, as many of each as make the largest sum of scores.

    Every number of heads that the limit allows is tried, none included; the best neurons get the rest of it.

    Args:
        heads: per site, one number a head, at least 0.
        neurons: per site, one number a neuron, on the same scale.
        tables: cost of keeping 0, 1, … units, by site.
        limit: what the kept units may cost together; at least what those cost that `bounds` keeps.
        bounds: what every site keeps at least and at most.

    Source: Kwon et al. (arXiv 2204.09656), algorithm 1. Differs: no head at all is tried too, so that every budget can
    be met; what then still fits is kept.
    """
    head, neuron = _ranked(heads, tables, bounds), _ranked(neurons, tables, bounds)
    left = limit * (1 + ROUNDING) - head.cost[head.least : head.most + 1]
    affordable = torch.searchsorted(neuron.cost, left.clamp(min=0.0), right=True) - 1
    affordable = affordable.clamp(neuron.least, neuron.most)
    totals = head.score[head.least : head.most + 1] + neuron.score[affordable]
    best = int(totals.masked_fill(left < neuron.cost[neuron.least], -torch.inf).argmax())
    first = _priorities(heads, head, head.least + best) | _priorities(neurons, neuron, int(affordable[best]))
    return keep_best(first, tables, limit, bounds)


def rearranged(mask: Tensor, gradients: Tensor, protected: Tensor | None = None) -> Tensor:
    """Exchange units, as many kept as before, so that removing the others together changes the loss less.

    Each kept unit, the least important first, joins the removed ones `P`; of these the one comes back that leaves the
    smallest `‖ Σ_{u∈P} g_u ‖²`, the loss by the block-diagonal Fisher. With `F = GᵀG` a step takes `units` operations.

    Args:
        mask: `(units,)` of one site, True = keep.
        gradients: `G`, derivatives of each loss with respect to the units' masks, `(losses, units)`.
        protected: units that are not exchanged, `(units,)`; None exchanges any.

    Source: Kwon et al. (arXiv 2204.09656), algorithm 2.
    """
    if bool(mask.all()):
        return mask
    if protected is not None:
        others = ~protected
        return mask.masked_scatter(others, rearranged(mask[others], gradients[:, others.to(gradients.device)]))
    fisher = gradients.double().T @ gradients.double()
    alone = fisher.diagonal()
    removed = ~mask.to(fisher.device)
    with_removed = fisher @ removed.double()
    for unit in (torch.where(removed, torch.inf, alone).argsort(stable=True)[: int(mask.sum())]).tolist():
        removed[unit] = True
        with_removed += fisher[unit]
        back = int(torch.where(removed, alone - 2 * with_removed, torch.inf).argmin())
        removed[back] = False
        with_removed -= fisher[back]
    return ~removed.to(mask.device)


def _ranked(scores: Scores, tables: CostTables, bounds: Bounds) -> _Ranking:
    """Rank units by score; each costs the next step of its site's table, once all better ones of the site are kept."""
    flat = torch.cat([torch.zeros(0), *scores.values()]).double().cpu()
    tiers = torch.cat([torch.zeros(0, dtype=torch.long), *(bounds.tier(name, own) for name, own in scores.items())])
    order = flat.argsort(descending=True, stable=True)
    order = order[tiers[order].argsort(descending=True, stable=True)]
    steps = torch.zeros_like(flat)
    start = 0
    for name, values in scores.items():
        own = (order >= start) & (order < start + values.numel())
        steps[own] = tables[name].diff().double().cpu()
        start += values.numel()
    zero = torch.zeros(1, dtype=torch.float64)
    least, gone = int((tiers == MUST).sum()), int((tiers == MUST_NOT).sum())
    return _Ranking(
        order, torch.cat([zero, steps.cumsum(0)]), torch.cat([zero, flat[order].cumsum(0)]), least, order.numel() - gone
    )


def _priorities(scores: Scores, ranking: _Ranking, kept: int) -> Scores:
    """Make scores that put the best `kept` units before all others: 1 to 2 for these, 0 to 1 for the rest."""
    units = ranking.order.numel()
    places = torch.empty(units, dtype=torch.float64)
    places[ranking.order] = torch.arange(units, 0, -1, dtype=torch.float64) / max(units, 1)
    places[ranking.order[:kept]] += 1
    return dict(zip(scores, places.split([values.numel() for values in scores.values()]), strict=True))
