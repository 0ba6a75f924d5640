"""The first line of every result: what was gained, in the units in which people feel it, and what it cost.

`1.98× faster, 91 → 69 MB, accuracy 0.880 → 0.874 ± 0.02 (n=872)`. Only measured time is called fast or slow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trimformer.judging.manifest import Manifest, speedup
from trimformer.judging.metrics import COUNTED, FOUR_DECIMALS, TWO_DECIMALS, Metric
from trimformer.report import summary
from trimformer.report.summary import MetricRow
from trimformer.vocabulary.facts import BeforeAfter

SAME_SPEED, SAME_SHARE = 0.005, 0.01
"""Relative difference below which a time counts as unchanged, and below which a half is called one."""
COUNTS = {"flops": "FLOPs", "params": "parameters"}
"""Names of what is counted."""


def headline(facts: Manifest) -> str:
    """Say in one line what was gained and lost."""
    said = [gained(facts), *(megabytes(size) for size in [summary.file_size(facts)] if size is not None)]
    return ", ".join([*said, *map(changed, summary.metrics(facts)[:1])])


def exported(facts: Mapping[str, Any]) -> str:
    """Say in one line what the smallest file of an export gained and lost in all, against the original; or nothing."""
    original = facts.get("original")
    if original is None:
        return ""
    file, about = list(facts["files"].items())[-1]
    sizes = BeforeAfter(before=round(1e6 * original["megabytes"]), after=round(1e6 * about["megabytes"]))
    found = about.get("metrics", {})
    rows = [MetricRow(name, Metric(**original["metrics"][name]), Metric(**found[name])) for name in original["metrics"]]
    said = [megabytes(sizes)] if sizes.before else []
    return f"{', '.join([*said, *map(changed, rows[:1])])}: {file} against {original['source'] or 'the original'}"


def kept(facts: Manifest) -> str:
    """Say in a second sentence what share stays: of what the budget is of, and of all parameters."""
    budget, parameters = facts.pruning.budget, facts.pruning.parameters
    share = f"{summary.percent(budget.reached)} of the {summary.cost_name(budget.cost)}"
    return f"Keeps {share}, {summary.percent(parameters.share)} of all parameters."


def gained(facts: Manifest) -> str:
    """Say how much faster the model is where that was measured; else how much less there is to compute."""
    budget = facts.pruning.budget
    times = speedup(facts.latency) if facts.latency else budget.measured and 1 / budget.measured
    if times:
        return faster(times)
    cost = budget.cost if budget.cost in COUNTS else "flops"
    return fewer(COUNTS[cost], facts.pruning.kept[cost])


def faster(times: float) -> str:
    """Say a measured ratio of times in words.

    >>> faster(1.984), faster(0.8), faster(1.002)
    ('1.98× faster', '1.25× slower', 'as fast as before')
    """
    if abs(times - 1) < SAME_SPEED:
        return "as fast as before"
    return f"{times:.2f}× faster" if times > 1 else f"{1 / times:.2f}× slower"


def fewer(what: str, kept: float) -> str:
    """Say what a count is of and what became of it; never as a speed.

    >>> fewer("FLOPs", 0.4996), fewer("parameters", 0.7), fewer("FLOPs", 1.0)
    ('FLOPs halved', '30 % fewer parameters', 'no fewer FLOPs')
    """
    if abs(kept - 0.5) <= SAME_SHARE / 2:
        return f"{what} halved"
    percent = round(100 * (1 - kept))
    return f"{percent} % fewer {what}" if percent else f"no fewer {what}"


def megabytes(size: BeforeAfter) -> str:
    """Write sizes of a file before and after, in one unit.

    >>> megabytes(BeforeAfter(before=90_900_000, after=69_100_000))
    '91 → 69 MB'
    >>> megabytes(BeforeAfter(before=5_130_000_000, after=2_610_000_000)), megabytes(BeforeAfter(before=9, after=8))
    ('5.1 → 2.6 GB', '0.009 → 0.008 kB')
    """
    units = {"GB": 1e9, "MB": 1e6, "kB": 1e3}
    unit = next((name for name, value in units.items() if size.before >= value), "kB")
    numbers = [each / units[unit] for each in (size.before, size.after)]
    digits = 0 if min(numbers) >= 10 else 1
    while size.before != size.after and f"{numbers[0]:.{digits}f}" == f"{numbers[1]:.{digits}f}":
        digits += 1
    return f"{numbers[0]:.{digits}f} → {numbers[1]:.{digits}f} {unit}"


def changed(row: MetricRow) -> str:
    """Write a metric before and after with half the width of its interval, and the size of the sample."""
    counted = " ".join([f"{row.pruned.sample_size:,}", *filter(None, [COUNTED.get(row.name)])])
    before, after = (short(metric.value, row.change) for metric in (row.dense, row.pruned))
    return f"{row.name} {before} → {after} ± {half_width(row.pruned)} (n={counted})"


def short(value: float, change: float = 0.0) -> str:
    """Write a metric's value in three decimals or two, in more where a change of it would not be seen.

    >>> short(0.8802), short(14.672), short(0.8802, 0.0004), short(2.5e7)
    ('0.880', '14.67', '0.8802', '2.5e+07')
    """
    size = abs(value)
    if size >= TWO_DECIMALS:
        return f"{value:.1e}"
    digits = 3 if size < FOUR_DECIMALS else 2
    return f"{value:.{digits if abs(change) >= 10**-digits or not change else digits + 1}f}"


def half_width(metric: Metric) -> str:
    """Write the longer side of a metric's 95 % interval in one digit, in two where the first is a 1.

    >>> half_width(Metric(0.874, 872, 0.852, 0.895)), half_width(Metric(0.9, 1, 0.9, 0.9))
    ('0.02', '0')
    """
    side = max(metric.high - metric.value, metric.value - metric.low)
    if side <= 0:
        return "0"
    first = f"{side:.0e}"[0]
    digits = -math.floor(math.log10(side)) + (1 if first == "1" else 0)
    return f"{side:.{max(digits, 0)}f}" if side < TWO_DECIMALS else f"{side:.1e}"
