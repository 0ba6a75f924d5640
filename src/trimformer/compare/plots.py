"""A comparison as plots: SVG files that look the same whenever they are drawn from the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trimformer.compare.findings import (
    best_speedup,
    in_percent,
    over_seeds,
    pairs_in_common,
    select,
    small_loss,
    succeeded,
    unique,
    worded,
)
from trimformer.compare.plan import Plan
from trimformer.compare.rows import Row
from trimformer.judging.metrics import LOWER_IS_BETTER
from trimformer.model.folders import whole_file
from trimformer.report.pictures import logarithmic, metric_scale

PANEL = (4.2, 3.4)
NEAR = 0.02
"""Distance from the dense model's value within which an axis of a metric is about linear; beyond, logarithmic."""
TICKS_APART = 0.09
"""Least distance of two ticks there, as a share of the axis."""
COLUMNS = 3
STYLES = ("-", "--", ":", "-.")
"""Of the lines of a method's budgets, by their cost."""


def write_plots(plan: Plan, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw every plot that the rows can fill into a folder, as `NAME.svg`."""
    return [save_svg(figure, folder / f"{name}.svg") for name, figure in figures(plan, rows).items()]


def figures(plan: Plan, rows: Sequence[Row]) -> dict[str, Figure]:
    """Draw every plot that the rows can fill, by name."""
    drawn = {
        "accuracy": accuracy(plan, rows),
        "time": time(plan, rows),
        "cost": cost(plan, rows),
        "speedup": speedup(plan, rows),
        "common": common(rows),
        "sensitivity": sensitivity(plan, rows),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def save_svg(figure: Figure, file: Path) -> Path:
    """Write a figure as SVG, the same bytes each time."""
    with mpl.rc_context({"svg.hashsalt": "trimformer"}), whole_file(file) as new:
        figure.savefig(new, metadata={"Date": None})
    return file


def accuracy(plan: Plan, rows: Sequence[Row]) -> Figure | None:
    """Draw the metric against the share that was reached, a panel a task; published values are crosses."""

    def draw(axes: Axes, task: str) -> None:
        costs = unique(row.cost for row in succeeded(rows))
        for (colour, method), (number, cost) in product(_coloured(plan, rows), enumerate(costs)):
            points = [
                (100 * _mean(row.facts.budget.reached for row in here), over_seeds(row.value for row in here))
                for here in _by_budget(select(rows, task=task, method=method, cost=cost))
            ]
            _line(axes, points, colour, f"{method}, {cost}" if len(costs) > 1 else method, STYLES[number])
            for published in plan.published if cost == "flops" else ():
                known = {share: published.metrics.get((task, method, share)) for share in _shares(rows, cost)}
                crosses = [(100 * share, value) for share, value in known.items() if value is not None]
                axes.plot(*zip(*crosses, strict=True), "x", color=colour) if crosses else None
        if plan.published:
            axes.plot([], [], "x", color="black", label="published")
        axes.set_xlabel("kept, %")

    return _panels(rows, draw)


def time(plan: Plan, rows: Sequence[Row]) -> Figure | None:
    """Draw the metric against seconds of pruning (and fine-tuning, where that comes after), on a logarithmic axis."""
    return _against(plan, rows, lambda row: row.seconds, "seconds")


def cost(plan: Plan, rows: Sequence[Row]) -> Figure | None:
    """Draw the metric against all that a result cost, in CPU seconds, on a logarithmic axis; None where none is known.

    As K-prune's and P-pruning's figures of accuracy against cost; of a training that serves several budgets, all of it.
    """
    known = [row for row in succeeded(rows) if row.facts.cost]
    return _against(plan, known, lambda row: row.whole_cost.cpu_seconds, "CPU seconds, training included")


def _against(plan: Plan, rows: Sequence[Row], cost_of: Callable[[Row], float], label: str) -> Figure | None:
    """Draw the metric against a cost, on a logarithmic axis, a point a budget with its share beside it."""

    def draw(axes: Axes, task: str) -> None:
        for colour, method in _coloured(plan, rows):
            for here in _by_budget(select(rows, task=task, method=method)):
                place = _mean(cost_of(row) for row in here), _mean(row.value for row in here)
                _line(axes, [(place[0], over_seeds(row.value for row in here))], colour, method)
                axes.annotate(
                    worded(here[0].budget, rows), place, (4, 4), textcoords="offset points", fontsize="x-small"
                )
        logarithmic(axes, "x")
        axes.set_xlabel(label)

    return _panels(rows, draw)


def speedup(plan: Plan, rows: Sequence[Row]) -> Figure | None:
    """Draw the largest measured speed-up within a small loss, a group of bars a task; None where there is none."""
    tasks, methods = unique(row.task for row in succeeded(rows)), _coloured(plan, rows)
    found = {method: [best_speedup(rows, task, method) for task in tasks] for _, method in methods}
    if not any(value for values in found.values() for value in values):
        return None
    figure = Figure(figsize=(max(PANEL[0], 1.6 * len(tasks)), PANEL[1]), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(methods)
    for place, (colour, method) in enumerate(methods):
        heights = [value or 0.0 for value in found[method]]
        axes.bar(np.arange(len(tasks)) + place * width, heights, width, color=colour, label=method)
    axes.axhline(1, color="gray", linewidth=1)
    axes.set_xticks(np.arange(len(tasks)) + 0.4 - width / 2, tasks)
    axes.set_ylabel(f"speed-up within {small_loss(rows)}, measured")
    axes.legend(fontsize="small")
    return figure


def common(rows: Sequence[Row]) -> Figure | None:
    """Draw shares of heads and neurons in common, a square a pair of tasks, by method and budget; None of none."""
    pairs = pairs_in_common(rows)
    cases = unique((pair.method, pair.budget) for pair in pairs)
    if not cases:
        return None
    figure = Figure(figsize=(2 * PANEL[0], PANEL[1] * len(cases)), layout="constrained")
    for line, (method, budget) in zip(figure.subplots(len(cases), 2, squeeze=False), cases, strict=True):
        here = [pair for pair in pairs if (pair.method, pair.budget) == (method, budget)]
        tasks = unique(task for pair in here for task in (pair.first, pair.second))
        for axes, kind in zip(line, ("heads", "neurons"), strict=True):
            shares = np.eye(len(tasks))
            for pair in here:
                place = tasks.index(pair.first), tasks.index(pair.second)
                shares[place] = shares[place[::-1]] = getattr(pair, kind)
            axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
            for place, value in np.ndenumerate(shares):
                colour = "white" if value > 0.6 else "black"
                axes.text(place[1], place[0], in_percent(value, 0), ha="center", va="center", color=colour)
            axes.set_xticks(range(len(tasks)), tasks)
            axes.set_yticks(range(len(tasks)), tasks)
            axes.set_title(f"{kind} in common: {method}, {worded(budget, rows)} kept", fontsize="small")
    return figure


def sensitivity(plan: Plan, rows: Sequence[Row]) -> Figure | None:
    """Draw the metric against each varied option's value, a line a task and budget; None where none is varied."""
    varied = [one for one in plan.contenders if one.varied and select(rows, method=one.label)]
    options = unique(one.varied[:2] for one in varied if one.varied)
    metrics = unique(row.metric for row in succeeded(rows))
    if not options:
        return None
    figure = Figure(figsize=(PANEL[0] * len(options), PANEL[1]), layout="constrained")
    for axes, option in zip(figure.subplots(1, len(options), squeeze=False)[0], options, strict=True):
        for task, budget in unique((row.task, row.budget) for row in succeeded(rows)):
            here = select(rows, task=task, budget=budget)
            points = sorted(
                (one.varied[2], over_seeds(row.value for row in select(here, method=one.label)))
                for one in varied
                if one.varied and one.varied[:2] == option
            )
            _line(axes, points, None, f"{task}, {worded(budget, rows)} kept")
        for metric in metrics if len(metrics) == 1 else ():
            metric_scale(axes, metric)
        logarithmic(axes, "x", linear_to=1e-4)
        axes.set_xlabel(f"{option[1]} of {option[0]}")
        axes.legend(fontsize="small")
    return figure


def _panels(rows: Sequence[Row], draw: Callable[[Axes, str], None]) -> Figure | None:
    """Draw a panel a task, with the dense model's metric as a dashed line, and one legend; None without any outcome."""
    tasks = unique(row.task for row in succeeded(rows))
    if not tasks:
        return None
    columns = min(COLUMNS, len(tasks))
    lines = -(-len(tasks) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * lines + 0.4), layout="constrained")
    places = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, task in zip(places, tasks, strict=False):
        row = select(rows, task=task)[0]
        axes.axhline(row.dense.value, linestyle="--", color="gray", label="dense")
        draw(axes, task)
        axes.set_title(f"{task}, n={row.dense.sample_size}")
        metric_scale(axes, row.metric)
        if row.metric not in LOWER_IS_BETTER:
            _stretch(axes, row.dense.value)
        axes.grid(alpha=0.3)
    for axes in places[len(tasks) :]:
        axes.set_axis_off()
    found = {label: line for axes in places for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    ncols = min(4, 2 * columns)  # of what fits below the panels
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=ncols, fontsize="small")
    return figure


def _coloured(plan: Plan, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """List the methods that are no variations of another, each with its colour."""
    varied = {contender.label for contender in plan.contenders if contender.varied}
    methods = unique(row.method for row in succeeded(rows) if row.method not in varied)
    return [(f"C{number}", method) for number, method in enumerate(methods)]


def _stretch(axes: Axes, dense: float) -> None:
    """Give what is near the dense model's value more room: lines that lie on each other there come apart."""

    def forward(values: Any) -> Any:
        return np.arcsinh((np.asarray(values) - dense) / NEAR)

    axes.set_yscale("function", functions=(forward, lambda values: dense + NEAR * np.sinh(values)))
    low, high = axes.get_ylim()
    apart, ticks = TICKS_APART * float(forward(high) - forward(low)), list[float]()
    for step in (0.1, 0.05, 0.02, 0.01):
        for tick in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step:
            if all(abs(forward(tick) - forward(other)) >= apart for other in ticks):
                ticks.append(round(float(tick), 2) + 0.0)
    axes.set_yticks(ticks, [f"{tick:.2f}" for tick in ticks])
    axes.set_ylabel(f"{axes.get_ylabel()}\n(wider near the dense model)")


def _by_budget(rows: Sequence[Row]) -> Iterator[list[Row]]:
    for budget in sorted(unique(row.budget for row in rows)):
        yield select(rows, budget=budget)


def _shares(rows: Sequence[Row], cost: str) -> list[float]:
    return unique(row.share for row in rows if row.cost == cost)


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _line(axes: Axes, points: Sequence[tuple[float, Any]], colour: str | None, label: str, style: str = "-") -> None:
    """Draw means with their standard deviations over seeds."""
    known = [(x, found) for x, found in points if found is not None]
    if known:
        axes.errorbar(
            [x for x, _ in known],
            [found.mean for _, found in known],
            yerr=[found.deviation for _, found in known],
            marker="o",
            markersize=4,
            capsize=2,
            color=colour,
            linestyle=style,
            label=label,
        )
