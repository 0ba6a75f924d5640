"""The units that a model keeps, block by block, as the report page, the model card and the terminal show them."""

from __future__ import annotations

from dataclasses import dataclass

from trimformer.judging.manifest import Manifest
from trimformer.model.sites import place, unit_of
from trimformer.pruning.facts import KeptUnits

UNIT_NAMES = {"head": "heads", "dimension": "dimensions", "neuron": "neurons"}
MOST_CELLS = 32


@dataclass(frozen=True)
class Units:
    """Units of one kind that a block keeps."""

    kind: str
    kept: int
    of: int
    cells: str
    """A character per unit, in order, `#` kept and `.` removed; empty where they are too many to draw one by one."""

    @property
    def percent(self) -> float:
        """Kept units in percent; 0 where there are none at all."""
        return 100 * self.kept / self.of if self.of else 0.0


def blocks(facts: Manifest) -> list[tuple[int, list[Units]]]:
    """List the kept units of each kind, by block."""
    which: dict[tuple[int, str], str] = {}
    for site, pattern in facts.pruning.patterns.items():
        units = _units_of(site)
        which[units] = which.get(units, "") + pattern
    return [
        (row.block, [_units(kind, units, which.get((row.block, kind))) for kind, units in row.units.items()])
        for row in facts.pruning.units
    ]


def _units(kind: str, units: KeptUnits, pattern: str | None) -> Units:
    known = pattern is not None and len(pattern) == units.of  # else some of a block's sites have none
    cells = pattern if pattern and known else "#" * units.kept + "." * (units.of - units.kept)
    return Units(kind, units.kept, units.of, cells if units.of <= MOST_CELLS else "")


def removed(facts: Manifest) -> dict[str, float]:
    """Compute the share of all units, or dimensions, that is gone, from 0 to 1, by site that has a removal curve."""
    kept = {(block, unit.kind): unit.percent / 100 for block, units in blocks(facts) for unit in units}
    found = {site: _units_of(site) for site in facts.pruning.curves}
    width = {site: kept.get((block, "dimension"), 1.0) for site, (block, kind) in found.items() if kind == "head"}
    return {site: 1 - kept[units] * width.get(site, 1.0) for site, units in found.items() if units in kept}


def _units_of(site: str) -> tuple[int, str]:
    """Find the block and the kind of unit that a site's name stands for."""
    block, sublayer = place(site)
    return block, unit_of(sublayer)
