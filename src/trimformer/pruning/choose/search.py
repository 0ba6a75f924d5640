"""Search for the units that stay: scores or curves, costs and a limit -> masks. Pure functions of tensors.

What units cost is a table by site: the cost of keeping 0, 1, … units. FLOPs and parameters grow by the same step with
every unit; measured time has flat stretches and steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimformer.model.sites import Masks, Scores
from trimformer.pruning.budget import CostTables
from trimformer.pruning.choose.bounds import FREE, MUST, MUST_NOT, Bounds
from trimformer.pruning.choose.curves import RemovalCurve, never_falling

ROUNDING = 1e-12
"""Relative excess of a sum of costs over the limit that passes as rounding, so that no unit is lost for it."""


def keep_best(scores: Scores, tables: CostTables, limit: float, bounds: Bounds = FREE) -> Masks:
    """Keep the units of highest score whose costs together stay within the limit.

    Units are taken in order of falling score, over all sites at once; one that no longer fits is passed over, and a
    cheaper one below it may still be taken. So what is left of the limit is less than the next step of any table.

    Args:
        scores: per site, one number a unit; ties keep the order of sites and units.
        tables: cost of keeping 0, 1, … units, by site.
        limit: what the kept units may cost together; at least what those cost that `bounds` keeps.
        bounds: what stays of each site is taken first, and nothing beyond the most.
    """
    owners = [name for name, values in scores.items() for _ in range(values.numel())]
    flat = torch.cat([values.double().cpu() for values in scores.values()])
    tiers = torch.cat([bounds.tier(name, values) for name, values in scores.items()])
    kept = torch.zeros(len(owners), dtype=torch.bool)
    steps = {name: iter(tables[name].diff().tolist()) for name in scores}
    following = {name: next(steps[name], 0.0) for name in scores}
    left, slack = limit, limit * ROUNDING
    order = torch.argsort(flat, descending=True, stable=True)
    for index in order[torch.argsort(tiers[order], descending=True, stable=True)].tolist():
        name, tier = owners[index], int(tiers[index])
        if tier == MUST or (tier != MUST_NOT and following[name] <= left + slack):
            left -= following[name]
            following[name] = next(steps[name], 0.0)
            kept[index] = True
    return dict(zip(scores, kept.split([values.numel() for values in scores.values()]), strict=True))


def remove_cheapest(curves: dict[str, RemovalCurve], tables: CostTables, limit: float, bounds: Bounds = FREE) -> Masks:
    """Remove units along the curves of all sites, cheapest per saved cost first, until the limit holds.

    Where a table has steps, units that save nothing alone are priced together with those that complete the step; what
    was removed last comes back where there is room for it.

    Args:
        curves: order and price of removal, by site; prices do not decrease along a curve.
        tables: cost of keeping 0, 1, … units, by site.
        limit: what the kept units may cost together.
        bounds: what every site keeps at least and at most.
    """
    least = ROUNDING * (max(float(tables[name][-1]) for name in curves) or 1.0)
    orders, prices = {}, {}
    for name, curve in curves.items():
        orders[name] = bounds.protected_last(name, curve.order)
        cost = curve.cost[_places(orders[name], curve.order)]
        free, saved = bounds.free(name, cost.numel()), tables[name].diff().flip(0).clamp(min=least)
        prices[name] = cost.clone()
        prices[name][free] = _price(cost[free], saved[free])
    return remove_in_order(orders, prices, tables, limit, bounds)


def remove_in_order(
    orders: dict[str, Tensor], prices: dict[str, Tensor], tables: CostTables, limit: float, bounds: Bounds = FREE
) -> Masks:
    """Remove units of all sites by rising price until the limit holds; the last come back where there is room.

    Args:
        orders: in which order the units of a site go; protected ones go last, whatever their place.
        prices: of each of these removals, by site; do not decrease. Ties keep the order of sites.
        tables: cost of keeping 0, 1, … units, by site.
        limit: what the kept units may cost together.
        bounds: what every site keeps at least and at most.
    """
    going = {name: bounds.protected_last(name, order) for name, order in orders.items()}
    free = {name: bounds.free(name, order.numel()) for name, order in orders.items()}
    own = {name: prices[name][_places(going[name], order)][free[name]] for name, order in orders.items()}
    saved = {name: tables[name].diff().flip(0) for name in orders}
    _, left = bounds.cost(tables, orders)
    allowed = limit * (1 + ROUNDING)
    removed = {name: part.start for name, part in free.items()}
    gone: list[str] = []
    removals = [(price, name) for name in orders for price in own[name].tolist()]
    for _, name in sorted(removals, key=lambda removal: removal[0]):
        if left <= allowed:
            break
        left -= float(saved[name][removed[name]])
        removed[name] += 1
        gone.append(name)
    for name in dict.fromkeys(reversed(gone)):
        while removed[name] > free[name].start and left + float(saved[name][removed[name] - 1]) <= allowed:
            removed[name] -= 1
            left += float(saved[name][removed[name]])
    masks = {name: torch.ones(order.numel(), dtype=torch.bool) for name, order in orders.items()}
    for name, count in removed.items():
        masks[name][going[name][:count]] = False
    return masks


def _places(wanted: Tensor, order: Tensor) -> Tensor:
    """Find where the units of one order stand in another: `(units,)`."""
    return order.argsort()[wanted]


def _price(cost: Tensor, saved: Tensor) -> Tensor:
    """Price each removal per saved cost, never falling: the slopes of the lower hull of price against saving."""
    return never_falling(cost / saved, saved)
