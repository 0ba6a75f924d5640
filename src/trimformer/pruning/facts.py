"""The facts of a pruned model, as a person would ask for them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trimformer.model.sites import Masks
from trimformer.model.structure import Structure


def masks_summary(structure: Structure, masks: Masks) -> list[dict[str, int]]:
    """Kept heads and neurons by block, for tables: `{"block": 0, "head": 5, "head_of": 12, "neuron": …}`."""
    rows: dict[tuple[int, int], dict[str, int]] = {}
    for site in structure:
        row = rows.setdefault((site.chain, site.block), {"block": site.block})
        kept, of = site.kind, f"{site.kind}_of"
        row[kept] = row.get(kept, 0) + int(masks[site.name].sum())
        row[of] = row.get(of, 0) + site.units
    return list(rows.values())


CURVE_POINTS = 33


PATTERN_UNITS = 64


def compact_curves(costs: Mapping[str, Tensor | None]) -> dict[str, list[float]]:
    """By site, what removing units costs together: at none, at all, and evenly between, at most 33 points.

    Args:
        costs: by site, the cost of each removal, `(units,)`, in order; None where the method estimates none.
    """
    curves = {}
    for site, cost in costs.items():
        if cost is not None and len(cost):
            steps = min(len(cost), CURVE_POINTS - 1)
            removed = [round(len(cost) * step / steps) for step in range(1, steps + 1)]
            total = cost.double().cumsum(0).tolist()
            curves[site] = [0.0, *(float(f"{total[count - 1]:.4g}") for count in removed)]
    return curves


def patterns(masks: Masks) -> dict[str, str]:
    """By site of at most 64 units, which of them stay: `#` for a kept one, `.` for a removed one."""
    return {
        name: "".join("#" if kept else "." for kept in mask.tolist())
        for name, mask in masks.items()
        if len(mask) <= PATTERN_UNITS
    }
