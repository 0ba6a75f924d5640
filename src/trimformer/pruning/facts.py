"""The facts of a pruned model, as a person would ask for them."""

from __future__ import annotations

from trimformer.model.sites import Masks
from trimformer.model.structure import Structure
from trimformer.observing.calibration import Measured


def masks_summary(structure: Structure, masks: Masks) -> list[dict[str, int]]:
    """Kept heads and neurons by block, for tables: `{"block": 0, "head": 5, "head_of": 12, "neuron": …}`."""
    rows: list[dict[str, int]] = [{"block": index} for index in range(len(structure.blocks))]
    for site in structure:
        rows[site.block] |= {site.kind: int(masks[site.name].sum()), f"{site.kind}_of": site.units}
    return rows


CURVE_POINTS = 33


PATTERN_UNITS = 64


def compact_curves(measured: Measured) -> dict[str, list[float]]:
    """By site, what removing units costs together: at none, at all, and evenly between, at most 33 points.

    Takes every `<site>.cost` that a method measured: the cost of each removal, `(units,)`, in order.
    """
    curves = {}
    for name, cost in measured.items():
        site, _, what = name.rpartition(".")
        if what == "cost" and len(cost):
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
