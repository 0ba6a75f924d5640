"""A comparison as Markdown: tables that read well as text, and what is beside them."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from trimformer.compare.findings import (
    NOTHING,
    best_speedup,
    geometric_mean,
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
from trimformer.compare.published import Published
from trimformer.compare.rows import Row
from trimformer.judging.manifest import DENSE, speedup
from trimformer.judging.metrics import DISTANCES, LOWER_IS_BETTER, interval, shown
from trimformer.report.markdown import escaped, message
from trimformer.report.summary import versions_text

FILE = "tables.md"
WIDTH = 130


def document(plan: Plan, rows: Sequence[Row]) -> str:
    """Write all tables that the rows can fill, and their notes."""
    parts = [
        f"# {escaped(plan.title)}",
        accuracy(plan, rows),
        notes(plan, rows),
        failures(rows),
        costs(rows),
        whole_costs(plan, rows),
        speeds(plan, rows),
        speedups(plan, rows),
        units_in_common(rows),
        sensitivity(plan, rows),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def accuracy(plan: Plan, rows: Sequence[Row]) -> str:
    """Write a table a task: a row a method, below them what is published; a column a budget."""
    methods = unique(row.method for row in rows if _varied(plan, row.method) is None)
    return "\n\n".join(_of_task(plan, rows, methods, task) for task in unique(row.task for row in rows))


def _of_task(plan: Plan, rows: Sequence[Row], methods: Sequence[str], task: str) -> str:
    budgets = unique((row.cost, row.share) for row in rows if row.task == task and row.method in methods)
    lines = [[method, *(_measured(rows, task, method, *budget) for budget in budgets)] for method in methods]
    lines += [
        [f"{method}, {published.name}", *(_published(published, task, method, *budget) for budget in budgets)]
        for published in plan.published
        for method in published.methods([task])
    ]
    return table([_task(rows, task), *(f"{share:.0%} of {cost}" for cost, share in budgets)], lines)


def of_method(plan: Plan, rows: Sequence[Row], method: str) -> str:
    """Write a method's table: a row a task, below each what is published; a column a budget, the dense model first."""
    here = select(rows, method=method)
    budgets = unique((row.cost, row.share) for row in here)
    lines = []
    for task in unique(row.task for row in here):
        dense = shown(select(here, task=task)[0].dense.value)
        lines.append([_task(rows, task), dense, *(_measured(rows, task, method, *budget) for budget in budgets)])
        lines += [
            [f"{task}, {published.name}", "", *(_published(published, task, method, *budget) for budget in budgets)]
            for published in plan.published
            if method in published.methods([task])
        ]
    return table(["task", "dense", *(f"{share:.0%} of {cost}" for cost, share in budgets)], lines)


def _measured(rows: Sequence[Row], task: str, method: str, cost: str, share: float) -> str:
    here = select(rows, task=task, method=method, cost=cost, share=share)
    found, apart = over_seeds(row.value for row in here), over_seeds(kl.value for row in here if (kl := row.divergence))
    return f"{found}{f', {apart}' if apart else ''}" if found else NOTHING


def _published(published: Published, task: str, method: str, cost: str, share: float) -> str:
    value = published.metrics.get((task, method, share)) if cost == "flops" else None
    return NOTHING if value is None else shown(value)


def _task(rows: Sequence[Row], task: str) -> str:
    row = next(iter(select(rows, task=task)), None)
    if row is None:
        return task
    apart = next((f", then {name}" for name in DISTANCES if row.divergence and name in row.facts.metrics[DENSE]), "")
    return f"{task} ({row.metric}{apart}, n={row.dense.sample_size})"


def notes(plan: Plan, rows: Sequence[Row]) -> str:
    """Write notes: dense metrics, seeds, tokens, what was reached, versions, and sources of published numbers."""
    known = succeeded(rows)
    if not known:
        return "No cell has a result yet."
    said = [
        f"Dense: {', '.join(_dense(rows, task) for task in unique(row.task for row in known))}.",
        *(f"Lower is better: {name}." for name in unique(row.metric for row in known) if name in LOWER_IS_BETTER),
        "Mean ± standard deviation over the seeds whose number is in brackets; without, one seed.",
        _reached(known),
        f"Calibration tokens: {_range(row.facts.calibration.tokens for row in known)}.",
        f"On {_machines(known)}; {_listed(_versions(row) for row in known)}.",
        *_load(known),
    ]
    for published in plan.published:
        dense = ", ".join(
            f"{task} {shown(value)}" for task, value in published.dense.items() if select(rows, task=task)
        )
        said += [f"{published.name}: {published.source}.{f' Dense: {dense}.' if dense else ''}", *published.notes]
    return _paragraphs(said)


def failures(rows: Sequence[Row]) -> str:
    """Write which cells have no result and why, a paragraph a method; where the reasons differ, that of the first."""
    failed = [row for row in rows if row.outcome is None]
    said = []
    for method in unique(row.method for row in failed):
        here = [row for row in failed if row.method == method]
        first, reasons = here[0], {row.failure for row in here}
        about = f"({first.task} at {worded(first.budget, rows)}) " if len(reasons) > 1 else ""
        said.append(message(f"No result for {method} on {_cells(here, rows)}: {about}{first.failure}."))
    return _paragraphs(said)


def _cells(rows: Sequence[Row], beside: Sequence[Row]) -> str:
    """List tasks and their budgets, those tasks together that have the same ones."""
    tasks: dict[str, list[str]] = {}
    for task in unique(row.task for row in rows):
        budgets = unique(worded(row.budget, beside) for row in rows if row.task == task)
        tasks.setdefault(", ".join(budgets), []).append(task)
    return "; ".join(f"{', '.join(together)} at {budgets}" for budgets, together in tasks.items())


def _paragraphs(lines: Iterable[str]) -> str:
    return "\n\n".join(textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines)


def _dense(rows: Sequence[Row], task: str) -> str:
    dense = select(rows, task=task)[0].dense
    return f"{task} {shown(dense.value)} {interval(dense)}"


def _reached(rows: Sequence[Row]) -> str:
    shares = [row.facts.budget.reached / row.share for row in rows]
    reached = _range(shares, ".1%")
    if reached == "100.0%":
        return "Models have the sizes that were asked for."
    return f"Sizes are those that were asked for; models reached {reached} of them."


def _range(values: Iterable[float], form: str = "d") -> str:
    """Write the least and the largest of some numbers; one where both read alike."""
    ordered = sorted(values)
    least, most = format(ordered[0], form), format(ordered[-1], form)
    return least if least == most else f"{least} to {most}"


def _machines(rows: Sequence[Row]) -> str:
    """Name devices and threads, and the hardware, which not all rows may tell."""
    devices = _listed(f"{row.facts.latency[DENSE].device} with {_threads(row.facts.threads)}" for row in rows)
    told = [row.facts.machine.hardware if row.facts.machine else None for row in rows]
    known = _listed(hardware for hardware in told if hardware)
    return f"{devices} ({known}{', where rows tell it' * (None in told)})" if known else devices


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


def _load(rows: Sequence[Row]) -> list[str]:
    """Say what else ran on the machine, where rows tell it."""
    found = [row.facts.machine.load for row in rows if row.facts.machine]
    return [f"Load of the machine, in processes that ran or waited: {_range(found, '.1f')}."] if found else []


def _versions(row: Row) -> str:
    return versions_text(row.facts.versions)


def _listed(values: Iterator[object]) -> str:
    return "; ".join(map(str, unique(values)))


def costs(rows: Sequence[Row]) -> str:
    """Write the cost of pruning, by method: medians over its cells, as ratios to a forward pass over the same rows."""
    lines = []
    for method in unique(row.method for row in succeeded(rows)):
        here = select(rows, method=method)
        pruning = statistics.median(row.facts.pruning_seconds / row.facts.forward_seconds for row in here)
        measuring = statistics.median(row.facts.measuring_seconds / row.facts.forward_seconds for row in here)
        tuning = [row.facts.finetuning_seconds for row in here]
        known = [seconds for seconds in tuning if seconds is not None]
        cells = [
            f"{measuring + pruning:.1f}",
            f"{pruning:.1f}",
            f"{statistics.median(_pruning(row) for row in here):.1f}",
            f"{statistics.median(known):.0f}" if len(known) == len(tuning) else NOTHING,
            f"{max(row.facts.memory_mb['host'] for row in here) / 1000:.2f}",
        ]
        lines.append([method, *cells])
    header = ["method", "first budget ÷ forward pass", "further ÷ forward pass", "seconds, first budget"]
    return table([*header, "seconds of fine-tuning", "peak memory, GB"], lines)


def _pruning(row: Row) -> float:
    return row.facts.measuring_seconds + row.facts.pruning_seconds


def whole_costs(plan: Plan, rows: Sequence[Row]) -> str:
    """Write the metric beside all that it cost, a row a task, method and budget; where a recipe trains, else nothing.

    Ratios and differences are to the first method of the file.
    """
    known = [row for row in succeeded(rows) if row.facts.cost]
    if not any(contender.training for contender in plan.contenders):
        return ""
    first, lines = plan.contenders[0].label, []
    for task, cost, share, method in unique((row.task, row.cost, row.share, row.method) for row in known):
        here = select(known, task=task, cost=cost, share=share, method=method)
        beside = select(known, task=task, cost=cost, share=share, method=first)
        spent = statistics.mean(row.whole_cost.cpu_seconds for row in here)
        ratio = [spent / statistics.mean(row.whole_cost.cpu_seconds for row in beside)] if beside else []
        ahead = (
            [statistics.mean(row.value for row in here) - statistics.mean(row.value for row in beside)]
            if beside
            else []
        )
        cells = [
            _measured(rows, task, method, cost, share),
            f"{ahead[0]:+.4f}" if ahead else NOTHING,
            f"{statistics.mean(row.facts.budget.reached for row in here):.1%}",
            f"{spent:.0f}",
            f"{statistics.mean(row.whole_cost.passes for row in here):.1f}",
            _times(ratio[0] if ratio else None),
            _range(row.whole_cost.trained_rows for row in here),
        ]
        lines.append([task, f"{share:.0%} of {cost}", method, *cells])
    header = ["task", "kept", "method", "metric", f"− {first}", "reached", "CPU seconds", "forward passes"]
    text = table([*header, f"cost ÷ {first}", "rows trained on"], lines)
    return "\n\n".join([text, *_shared(known), *_single(known)])


def _shared(rows: Sequence[Row]) -> list[str]:
    """Say how costs are counted where one training serves several budgets."""
    shared = unique(row.method for row in rows if row.whole_cost.shared_by > 1)
    parts = "measuring, rewiring, training, choosing, pruning"
    said = [f"Costs are of all that a result needs: {parts}. Forward passes are over all training rows of the task."]
    said += [f"One training of {', '.join(shared)} serves all budgets; each row has all of its cost."] if shared else []
    return [_paragraphs(said)]


def _single(rows: Sequence[Row]) -> list[str]:
    """Write what is measured of single rows, of models that decide row by row: their time is saved there only."""
    here = [row for row in rows if row.facts.single]
    if not here:
        return []
    lines = [
        [row.method, row.task, f"{row.share:.0%}", str(row.seed), *(_times(speedup(each or {})) for each in both)]
        for row in here
        for both in [(row.facts.single, row.facts.latency)]
    ]
    return [table(["method", "task", "kept", "seed", "speed-up, 1 row at once", "speed-up, a batch"], lines)]


def speeds(plan: Plan, rows: Sequence[Row]) -> str:
    """Write how many times as fast as the original the models were, by method and budget: geometric means of tasks."""
    known = [row for row in succeeded(rows) if math.isfinite(row.speedup)]
    budgets = unique(row.budget for row in known)
    lines = []
    for method in unique(row.method for row in known if _varied(plan, row.method) is None):
        here = [[row.speedup for row in select(known, method=method, budget=budget)] for budget in budgets]
        lines.append([method, *(_times(geometric_mean(each)) for each in here)])
    return table(["times as fast as the original", *(f"{share:.0%} of {cost}" for cost, share in budgets)], lines)


def speedups(plan: Plan, rows: Sequence[Row]) -> str:
    """Write the largest measured speed-up within a small loss, by method and task, published ones below."""
    tasks = unique(row.task for row in succeeded(rows))
    lines = []
    for method in unique(row.method for row in succeeded(rows) if _varied(plan, row.method) is None):
        found = [best_speedup(rows, task, method) for task in tasks]
        lines.append([method, *(_times(value) for value in [*found, geometric_mean(found)])])
    for published in plan.published:
        for method in unique(method for method, _ in published.speedups):
            values = [published.speedups.get((method, task)) for task in tasks]
            lines.append(
                [f"{method}, {published.name}", *(_times(value) for value in [*values, geometric_mean(values)])]
            )
    return table([f"largest speed-up within {small_loss(rows)}", *tasks, "geometric mean"], lines)


def _times(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f} ×"


def units_in_common(rows: Sequence[Row]) -> str:
    """Write the share of heads and of neurons that models of different tasks have in common."""
    lines = []
    for pair in pairs_in_common(rows):
        about = [pair.method, worded(pair.budget, rows), f"{pair.first}, {pair.second}"]
        lines.append([*about, in_percent(pair.heads, 1), in_percent(pair.neurons, 1)])
    return table(["method", "kept", "tasks", "heads in common", "neurons in common"], lines)


def sensitivity(plan: Plan, rows: Sequence[Row]) -> str:
    """Write the metric where options are varied: a row a value of an option, a column a task and budget."""
    columns = unique((row.task, row.budget) for row in succeeded(rows))
    lines = []
    for contender in plan.contenders:
        if contender.varied and select(rows, method=contender.label):
            base, option, value = contender.varied
            found = [_measured_at(rows, contender.label, task, budget) for task, budget in columns]
            lines.append([base, option, f"{value:g}", *found])
    return table(["method", "option", "value", *(f"{task} {worded(budget, rows)}" for task, budget in columns)], lines)


def _measured_at(rows: Sequence[Row], method: str, task: str, budget: tuple[str, float]) -> str:
    found = over_seeds(row.value for row in select(rows, method=method, task=task, budget=budget))
    return str(found) if found else NOTHING


def _varied(plan: Plan, label: str) -> str | None:
    """Find the label of which a method is a variation; None if it is none."""
    return next((one.varied[0] for one in plan.contenders if one.label == label and one.varied), None)


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; nothing where there are no lines."""
    if not lines:
        return ""
    return "\n".join([_line(header), "|---" * len(header) + "|", *map(_line, lines)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"
