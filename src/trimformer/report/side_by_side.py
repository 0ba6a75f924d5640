"""Several results side by side, in words and rows: the sizes of a sweep, the methods of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from trimformer.judging.manifest import DENSE, PRUNED, Manifest, latency_share
from trimformer.judging.metrics import WORDS, Metric, Metrics, interval, shown
from trimformer.observing.latency import Latency
from trimformer.pruning.facts import BudgetFacts
from trimformer.report import summary
from trimformer.report.headline import headline
from trimformer.report.summary import Stage

FOR_ALL_SIZES = ("ordering", "measuring")
"""Stages that are done before a size is known, once for all of a kind."""


def sweep_verdict(results: Sequence[Manifest]) -> str:
    """Sum up a sweep in one sentence: its range, and what the smallest size gains and loses."""
    cost = common_cost(results)
    smallest = min(results, key=lambda facts: facts.pruning.kept[cost])
    ends = {summary.percent(end(facts.pruning.kept[cost] for facts in results)): None for end in (max, min)}
    said = f"{len(results)} sizes keep {' to '.join(ends)} of the {summary.cost_name(cost)}"
    return f"{said}. The smallest: {headline(smallest)}."


def common_cost(results: Sequence[Manifest]) -> str:
    """Find the cost that all budgets are of; FLOPs, which are always counted, where they differ."""
    costs = {facts.pruning.budget.cost for facts in results}
    return costs.pop() if len(costs) == 1 else "flops"


def asked(budget: BudgetFacts) -> str:
    """Write a budget as text: the share that was asked for, and of what."""
    return f"{summary.percent(budget.asked)} of {summary.short_cost(budget.cost)}"


def sweep_remarks(results: Sequence[Manifest]) -> list[str]:
    """Say down to which size the judging metric holds, and how the numbers were taken."""
    said = []
    for row in summary.metrics(results[0])[:1]:
        holding = [facts.pruning.kept[common_cost(results)] for facts in results if summary.holds(facts)]
        held = f"keeps {summary.percent(min(holding))}" if holding else "is not among these sizes"
        by = "the interval of the difference" if row.name in results[0].lost else "its own interval"
        said.append(
            f"The smallest size whose {row.name} may be the dense model's or better, by {by} "
            f"(95\N{NO-BREAK SPACE}%), {held}."
        )
    if results[0].latency:
        said.append(summary.timing(results[0].latency[PRUNED]))
    return [*said, "Parameters are those of the whole model. FLOPs and parameters are counted, time is measured."]


def sweep_rows(results: Sequence[Manifest]) -> list[dict[str, str]]:
    """List one row a size, the dense model first: asked, reached and measured, as text."""
    whole, judged = summary.percent(1.0), summary.metrics(results[0])[:1]
    sizes = [summary.file_size(facts) for facts in results]
    first = {"asked": "dense", "reached": "", "parameters": whole, "time": whole if results[0].latency else ""}
    first["file"] = _megabytes(sizes[0].before if sizes[0] else None)
    rows = [first | _shown([row.dense for row in judged])]
    for facts, size in zip(results, sizes, strict=True):
        pruning, share = facts.pruning, facts.latency_share
        row = {
            "asked": asked(pruning.budget),
            "reached": summary.percent(pruning.budget.reached),
            "parameters": summary.percent(pruning.parameters.share),
            "time": "" if share is None else summary.percent(share),
            "file": _megabytes(size.after if size else None),
        }
        rows.append(row | _shown([row.pruned for row in summary.metrics(facts)[:1]]))
    return rows


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}\N{NO-BREAK SPACE}MB"


def _shown(judged: Sequence[Metric]) -> dict[str, str]:
    """Write the judging metric as text; of none, nothing."""
    texts = [{"value": shown(metric.value), "interval": interval(metric, WORDS)} for metric in judged]
    return texts[0] if texts else {"value": "", "interval": ""}


def sweep_stages(results: Sequence[Manifest]) -> list[Stage]:
    """List the stages of all sizes in order; what was done once for several stands first, and once."""
    common = [stage for facts in results for stage in summary.stages(facts) if stage.key in FOR_ALL_SIZES]
    return list({(stage.key, stage.seconds): stage for stage in common}.values()) + [
        Stage(stage.key, f"{asked(facts.pruning.budget)}: {stage.what}", stage.seconds, stage.memory_mb)
        for facts in results
        for stage in summary.stages(facts)
        if stage.key not in FOR_ALL_SIZES
    ]


@dataclass(frozen=True)
class Frontier:
    """The judging metric of several sizes against what is left of the dense model, by one measure."""

    metric: str
    measure: str
    points: tuple[tuple[float, Metric], ...]
    """Share of the dense model in percent, rising, and the metric there."""
    dense: Metric


def frontiers(results: Sequence[Manifest]) -> list[Frontier]:
    """Collect the judging metric of a sweep against every share that is known; none where nothing was judged."""
    judged = [row for facts in results for row in summary.metrics(facts)[:1]]
    if not judged:
        return []
    cost = common_cost(results)
    by_measure: dict[str, list[float | None]] = {
        f"{summary.short_cost(cost)} kept": [facts.pruning.kept[cost] for facts in results],
        "parameters of the whole model": [facts.pruning.parameters.share for facts in results],
        "time, measured": [facts.latency_share for facts in results],
    }
    found = []
    for measure, shares in by_measure.items():
        known = [100 * share for share in shares if share is not None]
        if len(known) == len(judged):
            points = sorted(zip(known, (row.pruned for row in judged), strict=True), key=lambda point: point[0])
            found.append(Frontier(judged[0].name, measure, tuple(points), judged[0].dense))
    return found


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a comparison that succeeded: a method on a task, at one size, with one seed."""

    task: str
    method: str
    seed: int
    budget: BudgetFacts
    metrics: Mapping[str, Metrics]
    latency: Mapping[str, Latency]
    warnings: tuple[str, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class MethodAtSize:
    """The runs of one method at one size of one task: the judging metric's mean over seeds, and a range."""

    share: float
    """Share of the cost that was asked for."""
    value: float
    low: float
    high: float
    """Lowest and highest of several seeds; of one seed the 95 % interval."""
    seeds: int
    time: float | None
    """Measured time as a share of the dense model's, mean over seeds; None where nothing was timed."""


@dataclass(frozen=True)
class TaskTable:
    """All runs of one task, on one cost."""

    task: str
    cost: str
    metric: str
    dense: Metric
    shares: Sequence[float]
    """Shares of the cost that were asked for, largest first."""
    methods: Mapping[str, Mapping[float, MethodAtSize]]
    """Results by method and share."""


def comparison_verdict(runs: Sequence[Run]) -> str:
    """Sum up in one sentence how much a comparison ran."""
    counts = {
        "method": len({run.method for run in runs}),
        "size": len({(run.budget.cost, run.budget.asked) for run in runs}),
        "task": len({run.task for run in runs}),
        "seed": len({run.seed for run in runs}),
    }
    said = ", ".join(f"{count} {noun}{'s' if count != 1 else ''}" for noun, count in counts.items())
    return f"{said}: {len(runs)} runs."


def task_tables(runs: Sequence[Run]) -> Iterator[TaskTable]:
    """Make a table for every task and cost, in the order in which they come."""
    for task, cost in dict.fromkeys((run.task, run.budget.cost) for run in runs):
        own = [run for run in runs if (run.task, run.budget.cost) == (task, cost)]
        metric = next(iter(own[0].metrics[PRUNED]))
        shares = sorted({run.budget.asked for run in own}, reverse=True)
        methods = {
            method: {
                share: _at_size(here, metric)
                for share in shares
                if (here := [run for run in own if (run.method, run.budget.asked) == (method, share)])
            }
            for method in dict.fromkeys(run.method for run in own)
        }
        yield TaskTable(task, summary.short_cost(cost), metric, own[0].metrics[DENSE][metric], shares, methods)


def _at_size(runs: Sequence[Run], metric: str) -> MethodAtSize:
    found = [run.metrics[PRUNED][metric] for run in runs]
    values = [row.value for row in found]
    low, high = (min(values), max(values)) if len(runs) > 1 else (found[0].low, found[0].high)
    times = [share for run in runs if (share := latency_share(run.latency)) is not None]
    return MethodAtSize(runs[0].budget.asked, fmean(values), low, high, len(runs), fmean(times) if times else None)


def comparison_remarks(runs: Sequence[Run]) -> list[str]:
    """Say how the numbers of a comparison were taken."""
    several = len({run.seed for run in runs}) > 1
    ranges = "the mean over seeds with the lowest and highest" if several else "the value with its 95 % interval"
    said = [f"Below a size is {ranges}; then the measured time, as a share of the dense model's."]
    times = [run.latency[PRUNED] for run in runs if run.latency]
    return said + ([summary.timing(times[0])] if times else [])
