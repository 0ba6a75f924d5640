"""The accuracy frontier of a sweep: a plot of the metric against what is kept, and the numbers as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from trimformer.errors import CheckpointError
from trimformer.judging.project import TaskResult
from trimformer.model.manifest import as_text

PLOT = "frontier.svg"
FACTS = "frontier.json"
MEASURES = {"flops": "FLOPs kept", "parameters": "parameters of the whole model", "latency": "latency, measured"}


def check_writable(folder: Path, *, overwrite: bool) -> None:
    """Refuse to replace the files of an earlier sweep.

    Raises:
        CheckpointError: one exists and `overwrite` is not set.
    """
    for name in (PLOT, FACTS):
        if (folder / name).exists() and not overwrite:
            raise CheckpointError(f"{folder / name} exists: choose another `out`, or replace it with `overwrite=True`")


def write(results: Sequence[TaskResult], folder: Path) -> None:
    """Write `frontier.svg` and `frontier.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FACTS).write_text(as_text([result.pruning.manifest for result in results]))
    plot(results).savefig(folder / PLOT, metadata={"Date": None})


def plot(results: Sequence[TaskResult]) -> Figure:
    """Metric with its interval against what is left of FLOPs, of all parameters, and of the measured latency."""
    name, dense = next(iter(results[0].before.items()))
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (measure, label) in zip(figure.subplots(1, len(MEASURES), sharey=True), MEASURES.items(), strict=True):
        points = sorted((100 * _share(result, measure), result.after[name]) for result in results)
        values = [metric.value for _, metric in points]
        below = [metric.value - metric.low for _, metric in points]
        above = [metric.high - metric.value for _, metric in points]
        axes.errorbar(
            [share for share, _ in points], values, yerr=[below, above], marker="o", capsize=3, label="pruned"
        )
        axes.axhline(dense.value, linestyle="--", color="gray", label="dense")
        axes.set_xlabel(f"{label} (%)")
        axes.set_xlim(0, 105)
        axes.grid(alpha=0.3)
    facts = results[0].pruning.manifest
    figure.suptitle(f"{facts['method']}, {facts['calibration']['tokens']} calibration tokens")
    figure.axes[0].set_ylabel(f"{name} (n={dense.sample_size}, 95 % interval)")
    figure.axes[0].legend()
    return figure


def _share(result: TaskResult, measure: str) -> float:
    """Share of the dense model's, from 0 to 1."""
    shares = {"parameters": result.parameter_share, "latency": result.latency_share}
    return shares[measure] if measure in shares else float(result.pruning.manifest["kept"][measure])
