"""Results as plain tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimformer.judging.manifest import DENSE, FINETUNED, PRUNED, Manifest
from trimformer.judging.metrics import BRACKETS, Metric, Metrics, interval, sample, shown
from trimformer.judging.training_facts import FineTuningFacts
from trimformer.model.checksums import CAN_BE_TOLD, CANNOT_BE_TOLD, READABLE, FileState
from trimformer.pruning.facts import BlockFacts, GuardFacts, PruningFacts
from trimformer.pruning.plan import Plan, PlannedSize
from trimformer.report import plans, summary
from trimformer.report.units import UNIT_NAMES
from trimformer.vocabulary.facts import BeforeAfter, VocabularyFacts

WIDTH = 80
"""Columns of a terminal that a table keeps to."""


def metrics_table(metrics: Metrics) -> Table:
    """Show metrics, one row each: value, interval and sample size."""
    table = _table("metric", "value", "95 % interval", "of")
    for name, metric in metrics.items():
        table.add_row(name, shown(metric.value), interval(metric), sample(name, metric))
    return table


def result_table(facts: Manifest) -> Table:
    """Show a result, before and after: asked, reached and measured; fits 80 columns."""
    pruning, table = facts.pruning, _table("", "dense", "pruned", "")
    for row in summary.metrics(facts):
        change = shown(row.change, "+", beside=row.dense.value)
        name = f"{row.name}, {row.sample}"
        table.add_row(name, shown(row.dense.value), shown(row.pruned.value), change)
        table.add_row("  95 % interval", interval(row.dense), interval(row.pruned), "")
    table.add_section()
    _add_guard(table, pruning.guard)
    for size in summary.asked_sizes(pruning):
        table.add_row(size.what, f"{size.asked} asked", size.reached, "")
    _add_costs(table, pruning)
    _add_sizes(table, facts)
    _add_latency(table, facts)
    calibration, rows = pruning.calibration, "training" if facts.recipe else "calibration"
    table.caption = (
        f"{pruning.method}, {_making_seconds(facts):.0f} s, {calibration.tokens} {rows} tokens in "
        f"{calibration.sequences} rows, seed {calibration.seed}"
        + ("; the model was pruned before: shares are of what was there" if pruning.already_pruned else "")
    )
    return table


def _add_guard(table: Table, guard: GuardFacts | None) -> None:
    if guard is None:
        return
    within = "" if guard.low is None or guard.high is None else BRACKETS.format(shown(guard.low), shown(guard.high))
    what = f"drop in {guard.metric}" if guard.metric else "drop"
    table.add_row(what, "", shown(guard.drop), f"{guard.max_drop:g} asked")
    table.add_row(f"  95 %, {guard.rows:,} guard rows", "", within, "")


def _add_costs(table: Table, pruning: PruningFacts) -> None:
    budget, parameters = pruning.budget, pruning.parameters
    for cost, share in pruning.kept.items():
        if cost == summary.FILE:
            continue
        by_itself = pruning.guard is not None or (pruning.sizes is not None and pruning.sizes.alone)
        asked = f"{budget.asked:.1%} asked" if cost == budget.cost and not by_itself else ""
        whole = "latency, by the table" if cost == "latency" else f"{cost} of sublayers"
        table.add_row(whole, asked, f"{share:.1%} reached", "")
    counts = (f"{count / 1e6:.2f} M" for count in (parameters.dense, parameters.pruned))
    table.add_row("parameters, whole model", *counts, f"{parameters.share:.1%} kept")


def _add_sizes(table: Table, facts: Manifest) -> None:
    size = summary.file_size(facts)
    if size is not None:
        sizes = (f"{each / 1e6:.1f} MB" for each in (size.before, size.after))
        budget = facts.pruning.budget
        asked = f", {budget.asked:.1%} asked" if budget.cost == summary.FILE else " kept"
        table.add_row("file of the weights", *sizes, f"{size.share:.1%}{asked}")
    if facts.vocabulary is not None:
        tokens = facts.vocabulary.tokens
        table.add_row("tokens known", str(tokens.before), str(tokens.after), f"{tokens.share:.1%} kept")


def vocabulary_table(facts: VocabularyFacts) -> Table:
    """Show a trimmed vocabulary, before and after; fits 80 columns."""
    table = _table("", "before", "after", "")
    table.add_row("tokens", str(facts.tokens.before), str(facts.tokens.after), f"{facts.tokens.share:.1%} kept")
    sizes = (f"{size / 1e6:.1f} MB" for size in (facts.bytes.before, facts.bytes.after))
    table.add_row("file of the weights", *sizes, f"{facts.bytes.share:.1%} kept")
    counts = (f"{count / 1e6:.2f} M" for count in (facts.parameters.before, facts.parameters.after))
    table.add_row("parameters, whole model", *counts, f"{facts.parameters.share:.1%} kept")
    if facts.held_out is not None:
        held_out = facts.held_out
        longer = f"{held_out.tokens.share - 1:+.1%}"
        table.add_row(f"tokens of {held_out.texts} held-out texts", *_pair(held_out.tokens), longer)
        table.add_row("  unknown ones among them", *_pair(held_out.unknown), "")
        share = f"{held_out.otherwise / held_out.texts:.1%}"
        table.add_row("  texts split otherwise", "", str(held_out.otherwise), share)
    table.caption = (
        f"{facts.proved_texts} texts split as before, {facts.other_texts} with rarer tokens do not; answers on "
        f"{facts.answered_texts} of them differ by at most {facts.largest_difference:.1g}"
    )
    return table


def _pair(counts: BeforeAfter) -> tuple[str, str]:
    return str(counts.before), str(counts.after)


def _add_latency(table: Table, facts: Manifest) -> None:
    if facts.latency_share is None:
        return
    dense, pruned = facts.latency[DENSE], facts.latency[PRUNED]
    where = f"latency, {dense.device}, {dense.rows} × {dense.length}"
    times = (f"{time.median_ms:.1f} ms" for time in (dense, pruned))
    table.add_row(where, *times, f"{facts.latency_share:.1%} measured")
    table.add_row("  quartiles", *(f"[{time.low_ms:.1f}, {time.high_ms:.1f}]" for time in (dense, pruned)), "")


def _making_seconds(facts: Manifest) -> float:
    """Add up the seconds of all that pruning took; 0 of a model that was not pruned."""
    seconds = facts.model.seconds if isinstance(facts.model, PruningFacts) else {}
    if facts.recipe is not None:
        return sum(facts.recipe.seconds.values())
    return sum(seconds.get(stage, 0.0) for stage in ("looking", "ordering", "measuring", "pruning"))


def sweep_table(results: Sequence[Manifest]) -> Table:
    """Show a sweep, one row a budget: asked, reached and measured; fits 80 columns."""
    judged = [summary.metrics(facts)[0] for facts in results]
    name, dense = judged[0].name, judged[0].dense
    sizes = [summary.file_size(facts) for facts in results]
    table = _table("asked", "latency", "MB", name, "95 % interval", "reached", "parameters")
    table.add_row(
        "dense", "100.0%", _megabytes(sizes[0].before if sizes[0] else None), shown(dense.value), interval(dense)
    )
    for facts, row, size in zip(results, judged, sizes, strict=True):
        budget, share = facts.pruning.budget, facts.latency_share
        table.add_row(
            f"{budget.cost} {budget.asked:.1%}",
            "" if share is None else f"{share:.1%}",
            _megabytes(size.after if size else None),
            shown(row.pruned.value),
            interval(row.pruned),
            f"{budget.reached:.1%}",
            f"{facts.pruning.parameters.share:.1%}",
        )
    of_table = [sample(name, dense), "MB of the weights", "parameters of the whole model", "latency as measured"]
    table.caption = "; ".join([*of_table, *_measuring(results[0])])
    return table


def _measuring(facts: Manifest) -> list[str]:
    """Say when units were measured; nothing of a method that trains, which tells its work by itself."""
    if facts.recipe is not None:
        return []
    seconds = facts.pruning.seconds["measuring"]
    return [f"measured once, in {seconds:.0f} s" if seconds else "measured by an earlier run"]


def units_table(blocks: Sequence[BlockFacts]) -> Table:
    """Show the kept units of every kind, block by block, each with a bar."""
    kinds = list(dict.fromkeys(kind for block in blocks for kind in block.units))
    table = _table("block", *(column for kind in kinds for column in (UNIT_NAMES.get(kind, kind), "")))
    for block in blocks:
        found = [block.units.get(kind) for kind in kinds]
        width = WIDTH // (len(kinds) + 1) // 2
        counts = [(f"{each.kept}/{each.of}", _bar(each.kept, each.of, width)) if each else ("", "") for each in found]
        table.add_row(str(block.block), *(cell for pair in counts for cell in pair))
    return table


def plan_tables(plan: Plan) -> Iterator[RenderableType]:
    """Show a plan: one row a size, then the units that each layer would keep, a column a size; fits 80 columns."""
    timed = plan.dense.latency_ms is not None
    table = _table("asked", "expected loss", "band", "MB", "parameters", "FLOPs", *(["time"] if timed else []))
    times = [f"{plan.dense.latency_ms:.1f} ms"] if timed else []
    table.add_row(
        "nothing", "", "", _megabytes(plan.dense.bytes), f"{plan.dense.parameters / 1e6:.2f} M", "100.0%", *times
    )
    for size, loss, band in zip(plan, plans.losses(plan), plans.bands(plan), strict=True):
        times = [] if size.latency_ms is None else [f"{size.latency_ms:.1f} ms"]
        counts = _megabytes(size.bytes), f"{size.parameters / 1e6:.2f} M", f"{size.kept['flops']:.1%}"
        table.add_row(plans.asked(size), loss, band, *counts, *times)
    yield table
    widths = _unit_widths(plan)
    *others, last = (UNIT_NAMES.get(kind, kind) for kind in widths)
    yield Text(f"\n{' and '.join(filter(None, (', '.join(others), last)))} that stay, by block")
    alike = len({size.budget.cost for size in plan}) == 1
    names = [size.asked if alike else plans.asked(size) for size in plan]
    wide = max(sum(widths.values()) + len(widths) - 1, *map(len, names)) + len("  ")
    at_once = max(1, (WIDTH - len("block")) // wide)
    for start in range(0, len(plan), at_once):
        part = slice(start, start + at_once)
        yield _layers_table(plan.budgets[part], names[part], widths)


def _unit_widths(plan: Plan) -> dict[str, int]:
    """Count the characters of the largest number of units of every kind."""
    widths: dict[str, int] = {}
    for row in plan[0].units:
        for kind, units in row.units.items():
            widths[kind] = max(widths.get(kind, 1), len(str(units.of)))
    return widths


def _layers_table(sizes: Sequence[PlannedSize], names: Sequence[str], widths: Mapping[str, int]) -> Table:
    table = _table("block", *names)
    for number, row in enumerate(sizes[0].units):
        kept = [size.units[number].units for size in sizes]
        cells = (
            " ".join(f"{own[kind].kept if kind in own else '':>{width}}" for kind, width in widths.items())
            for own in kept
        )
        table.add_row(str(row.block), *cells)
    return table


def finetuning_table(facts: Manifest, tuning: FineTuningFacts) -> Table:
    """Show what fine-tuning reached and took, beside the dense model where it is known; fits 80 columns."""
    dense = facts.metrics[DENSE]
    table = _table("", "fine-tuned", "dense" if dense or tuning.step is not None else "", "")
    for name, own in (facts.metrics.get(PRUNED) or facts.metrics[FINETUNED]).items():
        other = dense.get(name)
        change = shown(own.value - other.value, "+", beside=own.value) if other else ""
        values, intervals = ([write(each) if each else "" for each in (own, other)] for write in (_value, interval))
        table.add_row(f"{name}, {sample(name, own)}", *values, change)
        table.add_row("  95 % interval", *intervals, "")
    table.add_section()
    if tuning.step is not None:
        times = (f"{tuning.step[model].median_ms:.1f} ms" for model in (FINETUNED, DENSE))
        table.add_row("training step", *times, f"{tuning.step_speedup:.2f} × as fast")
    for name, own_s, dense_s in finetuning_seconds(facts, tuning):
        share = f"{own_s / dense_s:.1%}" if dense_s else ""
        table.add_row(name, f"{own_s:.1f} s", f"{dense_s:.1f} s" if dense_s else "", share)
    if tuning.step is not None and tuning.dense is None:
        table.caption = "seconds of the dense model: as many steps, by the time of a step"
    return table


def finetuning_seconds(facts: Manifest, tuning: FineTuningFacts) -> list[tuple[str, float, float]]:
    """List seconds of pruning, fine-tuning and both, and of fine-tuning the dense model; 0 where that is not known."""
    pruning, own, dense = _making_seconds(facts), tuning.training_seconds, tuning.dense_seconds or 0.0
    rows = [("fine-tuning", own, dense)]
    return [("pruning", pruning, 0.0), *rows, ("pruning and fine-tuning", pruning + own, dense)] if pruning else rows


def export_table(facts: Mapping[str, Any]) -> Table:
    """Show an export, one row a file: its size, how near it is to PyTorch, and the task's metrics."""
    files = facts["files"]
    names = list(next(iter(files.values())).get("metrics", {}))
    table = _table("file", "MB", "largest difference", *names)
    original = {"original": facts["original"]} if facts.get("original") else {}
    for file, about in (original | files).items():
        metrics = [about["metrics"].get(name) for name in names]
        values = (
            f"{shown(each['value'])} [{shown(each['low'])}, {shown(each['high'])}]" if each else "" for each in metrics
        )
        difference = f"{about['max_difference']:.1e}" if "max_difference" in about else ""
        table.add_row(file, f"{about['megabytes']:.1f}", difference, *values)
    first = next(iter(files.values()))
    judged = f"; {names[0]} on {first['metrics'][names[0]]['sample_size']} rows" if names else ""
    table.caption = f"difference to PyTorch on {first['compared_rows']} rows, {first['compared_tokens']} tokens{judged}"
    return table


def latency_table(facts: Mapping[str, Any]) -> Table:
    """Show times, one row a shape, runtime and model; the ratio is to the first model in the same runtime.

    Models go by the last part of their paths where that tells them apart.
    """
    short = {model: Path(model).name or model for model in facts["models"]}
    short = short if len(set(short.values())) == len(short) else {model: model for model in short}
    table = _table("rows × tokens", "runtime", "model", "median", "quartiles", "sequences/s", "ratio")
    for each in facts["measured"]:
        table.add_row(
            f"{each['rows']} × {each['length']}",
            each["runtime"],
            short[each["model"]],
            f"{each['median_ms']:.2f} ms",
            f"[{each['low_ms']:.2f}, {each['high_ms']:.2f}]",
            f"{each['sequences_per_second']:.1f}",
            f"{each['ratio']:.3f}",
        )
    table.caption = (
        f"{facts['device']} ({facts['device_name']}), {facts['threads']} threads, {facts['runs']} runs in turn; "
        "ratio to the first model"
    )
    return table


def plugins_table(folder: str, described: Mapping[str, str]) -> Table:
    """Show the public names of a plug-in folder and what they are."""
    table = _table(folder, "")
    for name, description in described.items():
        table.add_row(name, description)
    return table


def files_table(files: Sequence[FileState]) -> Table:
    """Show what is known of a checkpoint's files, one row each."""
    table = _table("file", "state", "")
    for file in files:
        table.add_row(Text(file.name), file.state, Text(file.about))
    table.caption = CANNOT_BE_TOLD if any(file.state == READABLE for file in files) else CAN_BE_TOLD
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or not column else "right", overflow="fold")
    return table


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


def _value(metric: Metric) -> str:
    return shown(metric.value)


def _bar(kept: int, of: int, width: int = 20) -> str:
    filled = round(width * kept / of) if of else 0
    return "█" * filled + "·" * (width - filled)
