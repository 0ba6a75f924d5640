"""Sums up the rows of a comparison: means over seeds, speed-ups, units in common. Pure functions of rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from trimformer.compare.rows import PackedMask, Row
from trimformer.judging.metrics import PERPLEXITY, shown
from trimformer.model.sites import place, unit_of

NOTHING = "–"
"""Stands in tables where there is no number."""
SMALL_LOSS = 0.03
"""Loss within which the papers compare speed: three points, or of a perplexity 3 % of it."""
KINDS: Mapping[str, str] = {"head": "heads", "neuron": "neurons"}


@dataclass(frozen=True)
class OverSeeds:
    """A mean over seeds, with its standard deviation."""

    mean: float
    deviation: float
    count: int

    def __str__(self) -> str:
        around = f" ± {shown(self.deviation, beside=self.mean)} ({self.count})" if self.count > 1 else ""
        return f"{shown(self.mean)}{around}"


@dataclass(frozen=True)
class Pair:
    """The likeness of two tasks' models: the shares of heads and of neurons that they have in common."""

    method: str
    budget: tuple[str, float]
    first: str
    second: str
    heads: float
    neurons: float


def over_seeds(values: Iterable[float]) -> OverSeeds | None:
    """Take the mean and standard deviation of some values; None of none."""
    known = list(values)
    if not known:
        return None
    return OverSeeds(statistics.mean(known), statistics.stdev(known) if len(known) > 1 else 0.0, len(known))


def unique(values: Iterable[Any]) -> list[Any]:
    """List values in order, each once."""
    return list(dict.fromkeys(values))


def succeeded(rows: Iterable[Row]) -> list[Row]:
    """Keep the rows that have an outcome."""
    return [row for row in rows if row.outcome is not None]


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Keep the rows that have an outcome and these values: `task`, `method`, `budget`, `share`, `cost`, `seed`."""
    return [row for row in succeeded(rows) if all(getattr(row, name) == value for name, value in wanted.items())]


def worded(budget: tuple[str, float], rows: Iterable[Row]) -> str:
    """Word a budget by its share, and by what it is a share of where the rows have budgets of several costs."""
    cost, share = budget
    return f"{share:.0%} of {cost}" if len({row.cost for row in rows}) > 1 else f"{share:.0%}"


def small_loss(rows: Iterable[Row]) -> str:
    """Word the loss within which speed is compared, as it fits these rows' metrics."""
    points, percent = f"{100 * SMALL_LOSS:g} points", f"{100 * SMALL_LOSS:g} % of perplexity"
    kinds = unique(percent if row.metric == PERPLEXITY else points for row in succeeded(rows))
    return " or ".join(kinds or [points])


def best_speedup(rows: Sequence[Row], task: str, method: str) -> float | None:
    """Find the largest measured speed-up of budgets whose mean loss over seeds is at most `SMALL_LOSS`, or None."""
    within = []
    for budget in unique(row.budget for row in select(rows, task=task, method=method)):
        here = select(rows, task=task, method=method, budget=budget)
        if statistics.mean(row.degradation for row in here) <= SMALL_LOSS:
            within.append(statistics.mean(row.speedup for row in here))
    return max(within, default=None)


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """Compute the geometric mean; None where a value is missing, or there are none."""
    known = [value for value in values if value is not None]
    return statistics.geometric_mean(known) if values and len(known) == len(values) else None


def pairs_in_common(rows: Sequence[Row]) -> list[Pair]:
    """Compare every two tasks whose models have the same units, by method and budget; means over common seeds."""
    found = []
    for method, budget in unique((row.method, row.budget) for row in succeeded(rows)):
        here = select(rows, method=method, budget=budget)
        for first, second in combinations(unique(row.task for row in here), 2):
            seeds = [
                (one.facts.units, other.facts.units)
                for one in here
                for other in here
                if (one.task, other.task, one.seed) == (first, second, other.seed)
            ]
            shared = [in_common(*units) for units in seeds if _same_shape(*units)]
            if shared:
                heads, neurons = (statistics.mean(kind[name] for kind in shared) for name in ("heads", "neurons"))
                found.append(Pair(method, budget, first, second, heads, neurons))
    return found


def in_common(first: Mapping[str, PackedMask], second: Mapping[str, PackedMask]) -> dict[str, float]:
    """Divide what both keep by the mean of what each keeps, by kind of unit; 1 = the same, NaN if neither keeps any.

    Two independent models that keep a share s of their units have s in common.
    """
    shares = {}
    for unit, kind in KINDS.items():
        sites = [name for name in first if unit_of(place(name)[1]) == unit]
        masks = [(unpacked(first[name]), unpacked(second[name])) for name in sites]
        both = sum(int((one & other).sum()) for one, other in masks)
        either = sum(int(one.sum()) + int(other.sum()) for one, other in masks)
        shares[kind] = 2 * both / either if either else math.nan
    return shares


def in_percent(share: float, decimals: int) -> str:
    """Write what two models have in common; a dash where neither keeps any such units.

    >>> in_percent(0.4525, 1), in_percent(math.nan, 1)
    ('45.2%', '–')
    """
    return NOTHING if math.isnan(share) else f"{share:.{decimals}%}"


def unpacked(mask: PackedMask) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Read the mask of a site, `(units,)`, True = keep; the opposite of `PackedMask.of`."""
    bits = np.frombuffer(bytes.fromhex(mask.kept), dtype=np.uint8)
    return np.unpackbits(bits, count=mask.units).astype(bool)


def _same_shape(first: Mapping[str, PackedMask], second: Mapping[str, PackedMask]) -> bool:
    return {name: mask.units for name, mask in first.items()} == {name: mask.units for name, mask in second.items()}
