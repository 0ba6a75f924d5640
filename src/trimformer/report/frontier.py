"""The accuracy frontier of a sweep: a plot of the metric against what is kept, and the numbers as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from trimformer import processes
from trimformer.errors import CheckpointError
from trimformer.judging.manifest import Manifest
from trimformer.judging.metrics import sample
from trimformer.model import folders
from trimformer.model.manifest import as_text, plain
from trimformer.report.pictures import draw_frontier
from trimformer.report.side_by_side import frontiers

PLOT = "frontier.svg"
FACTS = "frontier.json"
PANEL = (3.7, 3.6)
COLOUR, BESIDE = "C0", "gray"


def check_no_sweep(folder: Path, *, overwrite: bool) -> None:
    """Refuse to replace the files of an earlier sweep.

    Raises:
        CheckpointError: one exists and `overwrite` is not set.
    """
    for name in (PLOT, FACTS):
        if (folder / name).exists() and not overwrite:
            raise CheckpointError(f"{folder / name} exists: choose another `out`, or replace it with `overwrite=True`")


def write_sweep(results: Sequence[Manifest], folder: Path) -> None:
    """Write `frontier.svg` and `frontier.json` into a folder; of several processes, the first one does."""
    if not processes.is_first():
        return
    folders.write_text(as_text(plain(results)), folder / FACTS)
    with folders.whole_file(folder / PLOT) as new:
        plot(results).savefig(new, metadata={"Date": None})


def plot(results: Sequence[Manifest]) -> Figure:
    """Draw the metric with its interval against what is left of the cost, of all parameters, and of the time."""
    drawn = frontiers(results)
    figure = Figure(figsize=(PANEL[0] * len(drawn), PANEL[1]), layout="constrained")
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for axes, each in zip(panels, drawn, strict=True):
        draw_frontier(axes, each, COLOUR, BESIDE)
        axes.label_outer()
        axes.grid(alpha=0.3)
    pruning, dense = results[0].pruning, drawn[0].dense
    figure.suptitle(
        f"{pruning.method}, {pruning.calibration.tokens} calibration tokens; "
        f"{drawn[0].metric} on {sample(drawn[0].metric, dense)} with its 95 % interval"
    )
    return figure
