"""What several results say side by side, in words and rows: the sizes of a sweep, the methods of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from trimformer.judging.metrics import LOWER_IS_BETTER, shown
from trimformer.report import summary
from trimformer.report.summary import Facts, Stage


def sweep_verdict(results: Sequence[Facts]) -> str:
    """A sweep in one sentence: its range, and what the smallest size loses."""
    cost = common_cost(results)
    smallest = min(results, key=lambda facts: float(facts["kept"][cost]))
    ends = {summary.percent(end(facts["kept"][cost] for facts in results)): None for end in (max, min)}
    said = f"{len(results)} sizes keep {' to '.join(ends)} of the {summary.cost_name(cost)}"
    share = summary.latency_share(smallest)
    if share is not None:
        said += f"; the smallest runs in {summary.percent(share)} of the dense model's time"
    for row in summary.metrics(smallest)[:1]:
        said += f"{', with' if share is not None else '; the smallest has'} {summary.change(row)}"
    return f"{said}."


def common_cost(results: Sequence[Facts]) -> str:
    """The cost that all budgets are of; FLOPs, which are always counted, where they differ."""
    costs = {str(facts["budget"]["cost"]) for facts in results}
    return costs.pop() if len(costs) == 1 else "flops"


def asked(facts: Facts) -> str:
    """A budget as text."""
    budget = facts["budget"]
    return f"{summary.percent(budget['asked'])} of {summary.short_cost(budget['cost'])}"


def sweep_remarks(results: Sequence[Facts]) -> list[str]:
    """How far the judging metric holds, and how far the numbers go."""
    said = []
    for row in summary.metrics(results[0])[:1]:
        holding = [float(facts["kept"][common_cost(results)]) for facts in results if _holds(facts)]
        held = f"keeps {summary.percent(min(holding))}" if holding else "is not among these sizes"
        said.append(
            f"The smallest size whose 95\N{NO-BREAK SPACE}% {row.name} interval reaches the dense model's {held}."
        )
    if "latency" in results[0]:
        said.append(summary.timing(results[0]["latency"]["pruned"]))
    return [*said, "Parameters are those of the whole model. FLOPs and parameters are counted, time is measured."]


def _holds(facts: Facts) -> bool:
    """Whether the pruned model's interval of the judging metric reaches the dense model's value, or is better."""
    for row in summary.metrics(facts)[:1]:
        if row.name in LOWER_IS_BETTER:
            return row.pruned["low"] <= row.dense["value"]
        return row.pruned["high"] >= row.dense["value"]
    return False


def sweep_rows(results: Sequence[Facts]) -> list[dict[str, str]]:
    """One row a size, the dense model first: asked, reached and measured, as text."""
    rows = []
    judged = summary.metrics(results[0])[:1]
    whole = summary.percent(1.0)
    first = {"asked": "dense", "reached": "", "parameters": whole, "time": whole if "latency" in results[0] else ""}
    rows.append(first | {"value": "", "interval": ""} | (_shown(judged[0].dense) if judged else {}))
    for facts in results:
        budget, share = facts["budget"], summary.latency_share(facts)
        row = {
            "asked": asked(facts),
            "reached": summary.percent(budget["reached"]),
            "parameters": summary.percent(summary.parameter_share(facts)),
            "time": "" if share is None else summary.percent(share),
        }
        shown = [_shown(metric.pruned) for metric in summary.metrics(facts)[:1]]
        rows.append(row | (shown[0] if shown else {"value": "", "interval": ""}))
    return rows


def _shown(metric: Mapping[str, float]) -> dict[str, str]:
    return {"value": shown(metric["value"]), "interval": summary.interval(metric)}


def sweep_stages(results: Sequence[Facts]) -> list[Stage]:
    """Stages of all sizes in order; measuring is done once for all."""
    first = [stage for stage in summary.stages(results[0]) if stage.key == "measuring"]
    return first + [
        Stage(stage.key, f"{asked(facts)}: {stage.what}", stage.seconds, stage.memory_mb)
        for facts in results
        for stage in summary.stages(facts)
        if stage.key != "measuring"
    ]


Run = Mapping[str, Any]
"""One run of a comparison: `task`, `method`, `seed`, and as in a manifest `budget`, `metrics` and `latency`."""


@dataclass(frozen=True)
class Cell:
    """The runs of one method at one size of one task: the judging metric's mean over seeds, and a range."""

    share: float
    """Share of the cost that was asked for."""
    value: float
    low: float
    high: float
    """Lowest and highest of several seeds; of one seed the 95 % interval."""
    seeds: int
    time: float | None
    """Measured time against the dense model's, mean over seeds."""


@dataclass(frozen=True)
class TaskTable:
    """All runs of one task, on one cost."""

    task: str
    cost: str
    metric: str
    dense: Mapping[str, float]
    shares: Sequence[float]
    """Asked for, largest first."""
    methods: Mapping[str, Mapping[float, Cell]]
    """By method and share."""


def comparison_verdict(runs: Sequence[Run]) -> str:
    """A comparison in one sentence: what was run."""
    counts = {
        "method": len({run["method"] for run in runs}),
        "size": len({(run["budget"]["cost"], run["budget"]["asked"]) for run in runs}),
        "task": len({run["task"] for run in runs}),
        "seed": len({run["seed"] for run in runs}),
    }
    said = ", ".join(f"{count} {noun}{'s' if count != 1 else ''}" for noun, count in counts.items())
    return f"{said}: {len(runs)} runs."


def task_tables(runs: Sequence[Run]) -> Iterator[TaskTable]:
    """A table for every task and cost, in the order in which they come."""
    for task, cost in dict.fromkeys((run["task"], run["budget"]["cost"]) for run in runs):
        own = [run for run in runs if (run["task"], run["budget"]["cost"]) == (task, cost)]
        metric = next(iter(own[0]["metrics"]["pruned"]))
        shares = sorted({float(run["budget"]["asked"]) for run in own}, reverse=True)
        methods = {
            method: {
                share: _cell([run for run in own if (run["method"], run["budget"]["asked"]) == (method, share)], metric)
                for share in shares
                if any((run["method"], run["budget"]["asked"]) == (method, share) for run in own)
            }
            for method in dict.fromkeys(run["method"] for run in own)
        }
        yield TaskTable(task, summary.short_cost(cost), metric, own[0]["metrics"]["dense"][metric], shares, methods)


def _cell(runs: Sequence[Run], metric: str) -> Cell:
    found = [run["metrics"]["pruned"][metric] for run in runs]
    values = [row["value"] for row in found]
    low, high = (min(values), max(values)) if len(runs) > 1 else (found[0]["low"], found[0]["high"])
    times = [share for share in map(summary.latency_share, runs) if share is not None]
    share = float(runs[0]["budget"]["asked"])
    return Cell(share, fmean(values), low, high, len(runs), fmean(times) if times else None)


def comparison_remarks(runs: Sequence[Run]) -> list[str]:
    """How the numbers of a comparison were taken."""
    several = len({run["seed"] for run in runs}) > 1
    ranges = "the mean over seeds with the lowest and highest" if several else "the value with its 95 % interval"
    said = [f"Below a size is {ranges}; then the measured time, as a share of the dense model's."]
    times = [run["latency"]["pruned"] for run in runs if "latency" in run]
    return said + ([summary.timing(times[0])] if times else [])
