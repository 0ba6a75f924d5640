"""What a person sees in the terminal: progress bars and plain tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from trimformer.judging.metrics import Metric, Metrics, shown
from trimformer.judging.project import TaskResult


def metrics_table(metrics: Metrics) -> Table:
    """Metric, value, interval and sample size."""
    table = _table("metric", "value", "95 % interval", "rows")
    for name, metric in metrics.items():
        table.add_row(name, shown(metric.value), _interval(metric), str(metric.sample_size))
    return table


def result_table(result: TaskResult) -> Table:
    """Asked, reached and measured, before and after; fits 80 columns."""
    facts = result.pruning.manifest
    table = _table("", "dense", "pruned", "")
    for name, before in result.before.items():
        after = result.after[name]
        change = shown(after.value - before.value, "+", beside=before.value)
        table.add_row(f"{name}, {after.sample_size} rows", shown(before.value), shown(after.value), change)
        table.add_row("  95 % interval", _interval(before), _interval(after), "")
    table.add_section()
    _add_guard(table, facts)
    _add_costs(table, facts)
    dense, pruned = result.latency["dense"], result.latency["pruned"]
    share = f"{pruned.median_ms / dense.median_ms:.1%} measured"
    where = f"latency, {dense.device}, {dense.rows} × {dense.length}"
    table.add_row(where, f"{dense.median_ms:.1f} ms", f"{pruned.median_ms:.1f} ms", share)
    table.add_row("  quartiles", *(f"[{time.low_ms:.1f}, {time.high_ms:.1f}]" for time in (dense, pruned)), "")
    calibration = facts["calibration"]
    seconds = facts["seconds"]["measuring"] + facts["seconds"]["pruning"]
    table.caption = (
        f"{facts['method']}, {seconds:.0f} s, {calibration['tokens']} calibration tokens in "
        f"{calibration['sequences']} rows, seed {calibration['seed']}"
        + ("; the model was pruned before: shares are of what was there" if facts["already_pruned"] else "")
    )
    return table


def _add_guard(table: Table, facts: Mapping[str, Any]) -> None:
    if "guard" in facts:
        guard = facts["guard"]
        table.add_row(
            f"loss on {guard['rows']} guard rows", "", f"{guard['drop']:.4f}", f"{guard['max_drop']:.4f} asked"
        )


def _add_costs(table: Table, facts: Mapping[str, Any]) -> None:
    budget, parameters = facts["budget"], facts["parameters"]
    for cost, share in facts["kept"].items():
        asked = f"{budget['asked']:.1%} asked" if cost == budget["cost"] else ""
        whole = "latency, by the table" if cost == "latency" else f"{cost} of sublayers"
        table.add_row(whole, asked, f"{share:.1%} reached", "")
    table.add_row(
        "parameters, whole model",
        f"{parameters['dense'] / 1e6:.2f} M",
        f"{parameters['pruned'] / 1e6:.2f} M",
        f"{parameters['pruned'] / parameters['dense']:.1%} kept",
    )


def sweep_table(results: Sequence[TaskResult]) -> Table:
    """One row a budget: asked, reached and measured; fits 80 columns."""
    name, dense = next(iter(results[0].before.items()))
    table = _table("asked", "reached", "parameters", "latency", name, "95 % interval")
    table.add_row("dense", "", "100.0%", "100.0%", shown(dense.value), _interval(dense))
    for result in results:
        facts, after = result.pruning.manifest, result.after[name]
        table.add_row(
            f"{facts['budget']['cost']} {facts['budget']['asked']:.1%}",
            f"{facts['budget']['reached']:.1%}",
            f"{result.parameter_share:.1%}",
            f"{result.latency_share:.1%}",
            shown(after.value),
            _interval(after),
        )
    seconds = results[0].pruning.manifest["seconds"]["measuring"]
    measuring = f"measured once, in {seconds:.0f} s" if seconds else "measured by an earlier run"
    table.caption = f"{dense.sample_size} rows; parameters of the whole model; latency as measured; {measuring}"
    return table


def units_table(rows: Sequence[Mapping[str, int]]) -> Table:
    """Kept heads and neurons, block by block."""
    table = _table("block", "heads", "", "neurons", "")
    for row in rows:
        table.add_row(
            str(row["block"]),
            f"{row['head']}/{row['head_of']}",
            _bar(row["head"], row["head_of"]),
            f"{row['neuron']}/{row['neuron_of']}",
            _bar(row["neuron"], row["neuron_of"]),
        )
    return table


def finetuning_table(facts: Mapping[str, Any]) -> Table:
    """What fine-tuning reached and took, beside the dense model where it is known; fits 80 columns."""
    tuning, metrics = facts["finetuning"], facts["metrics"]
    table = _table("", "fine-tuned", "dense", "")
    for name, own in (metrics.get("pruned") or metrics["finetuned"]).items():
        other = metrics["dense"].get(name)
        change = shown(own["value"] - other["value"], "+", beside=own["value"]) if other else ""
        values = (shown(found["value"]) if found else "" for found in (own, other))
        table.add_row(f"{name}, {own['sample_size']} rows", *values, change)
        intervals = (f"[{shown(found['low'])}, {shown(found['high'])}]" if found else "" for found in (own, other))
        table.add_row("  95 % interval", *intervals, "")
    table.add_section()
    if "step" in tuning:
        own_ms, dense_ms = (tuning["step"][name]["median_ms"] for name in ("finetuned", "dense"))
        table.add_row("training step", f"{own_ms:.1f} ms", f"{dense_ms:.1f} ms", f"{dense_ms / own_ms:.2f} × as fast")
    for name, own_s, dense_s in finetuning_seconds(facts):
        share = f"{own_s / dense_s:.1%}" if dense_s else ""
        table.add_row(name, f"{own_s:.1f} s", f"{dense_s:.1f} s" if dense_s else "", share)
    if "step" in tuning and "dense" not in tuning:
        table.caption = "seconds of the dense model: as many steps, by the time of a step"
    return table


def finetuning_seconds(facts: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Pruning, fine-tuning and both: seconds, and those of fine-tuning the dense model; 0 where it is not known."""
    tuning = facts["finetuning"]
    pruning = sum(facts.get("seconds", {}).get(stage, 0.0) for stage in ("measuring", "pruning"))
    own = tuning["seconds"] - tuning["judging_seconds"]
    dense = 0.0
    if "dense" in tuning:
        dense = tuning["dense"]["seconds"] - tuning["dense"]["judging_seconds"]
    elif "step" in tuning:
        dense = own * tuning["step"]["dense"]["median_ms"] / tuning["step"]["finetuned"]["median_ms"]
    rows = [("fine-tuning", own, dense)]
    return [("pruning", pruning, 0.0), *rows, ("pruning and fine-tuning", pruning + own, dense)] if pruning else rows


def export_table(facts: Mapping[str, Any]) -> Table:
    """One row a file: its size, how near it is to PyTorch, and the task's metrics."""
    files = facts["files"]
    names = list(next(iter(files.values())).get("metrics", {}))
    table = _table("file", "MB", "largest difference", *names)
    for file, about in files.items():
        metrics = [about["metrics"][name] for name in names]
        values = (f"{shown(each['value'])} [{shown(each['low'])}, {shown(each['high'])}]" for each in metrics)
        table.add_row(file, f"{about['megabytes']:.1f}", f"{about['max_difference']:.1e}", *values)
    first = next(iter(files.values()))
    judged = f"; {names[0]} on {first['metrics'][names[0]]['sample_size']} rows" if names else ""
    table.caption = f"difference to PyTorch on {first['compared_rows']} rows, {first['compared_tokens']} tokens{judged}"
    return table


def latency_table(facts: Mapping[str, Any]) -> Table:
    """One row a shape, runtime and model; the ratio is to the first model in the same runtime.

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
    """Public names of a plug-in folder and what they are."""
    table = _table(folder, "")
    for name, description in described.items():
        table.add_row(name, description)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or not column else "right", overflow="fold")
    return table


def _interval(metric: Metric) -> str:
    return f"[{shown(metric.low)}, {shown(metric.high)}]"


def _bar(kept: int, of: int, width: int = 20) -> str:
    filled = round(width * kept / of) if of else 0
    return "█" * filled + "·" * (width - filled)
