"""Which units stay: scores and costs and a limit -> masks. Pure functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimformer.curves import RemovalCurve
from trimformer.interfaces import Masks, Scores


def total_cost(masks: Masks, unit_costs: Mapping[str, float]) -> float:
    """Cost of the kept units."""
    return sum(int(mask.sum()) * unit_costs[name] for name, mask in masks.items() if mask.numel())


def keep_best(scores: Scores, unit_costs: Mapping[str, float], limit: float) -> Masks:
    """Keep the units of highest score whose costs together stay within the limit.

    Units are taken in order of falling score, over all sites at once; one that no longer fits is passed over, and a
    cheaper one below it may still be taken. So what is left of the limit is less than the cheapest removed unit.

    Args:
        scores: per site, one number a unit; ties keep the order of sites and units.
        unit_costs: cost of one unit, by site.
        limit: what the kept units may cost together.
    """
    filled = [name for name, values in scores.items() if values.numel()]
    flat = torch.cat([scores[name].double().cpu() for name in filled])
    costs = torch.cat([torch.full((scores[n].numel(),), float(unit_costs[n]), dtype=torch.float64) for n in filled])
    order = torch.argsort(flat, descending=True, stable=True)
    kept = torch.zeros(flat.numel(), dtype=torch.bool)
    kept[order[fill(costs[order], limit)]] = True
    sizes = [scores[name].numel() for name in filled]
    masks = dict(zip(filled, kept.split(sizes), strict=True))
    return {name: masks.get(name, torch.ones(0, dtype=torch.bool)) for name in scores}


def fill(costs: Tensor, limit: float) -> Tensor:
    """Indices of the items taken first-come first-served within a limit: `(items,)` costs -> `(taken,)`."""
    slack = limit * 1e-12
    taken: list[Tensor] = []
    candidates = torch.arange(costs.numel())
    while candidates.numel():
        running = costs[candidates].cumsum(0)
        fits = running <= limit + slack
        count = int(fits.sum())
        taken.append(candidates[:count])
        limit -= float(running[count - 1]) if count else 0.0
        rest = candidates[count:]
        candidates = rest[costs[rest] <= limit + slack]
    return torch.cat(taken) if taken else candidates


def remove_cheapest(curves: Mapping[str, RemovalCurve], unit_costs: Mapping[str, float], limit: float) -> Masks:
    """Remove units along the curves of all sites, cheapest per saved cost first, until the limit holds.

    Args:
        curves: order and price of removal, by site; prices do not decrease along a curve.
        unit_costs: cost of one unit, by site.
        limit: what the kept units may cost together.
    """
    names = [name for name, curve in curves.items() if curve.order.numel()]
    prices = torch.cat([curves[name].cost / unit_costs[name] for name in names])
    saved = torch.cat([torch.full_like(curves[name].cost, unit_costs[name]) for name in names])
    owner = torch.cat([torch.full_like(curves[name].order, index) for index, name in enumerate(names)])
    order = torch.argsort(prices, stable=True)
    left = saved.sum() - torch.cat([torch.zeros(1, dtype=torch.float64), saved[order].cumsum(0)])
    removals = int((left > limit * (1 + 1e-12)).sum())
    removed = torch.bincount(owner[order[:removals]], minlength=len(names)).tolist()
    masks = {name: torch.ones(curve.order.numel(), dtype=torch.bool) for name, curve in curves.items()}
    for name, count in zip(names, removed, strict=True):
        masks[name][curves[name].order[:count]] = False
    return masks
