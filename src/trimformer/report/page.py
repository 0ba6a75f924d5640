"""The report: facts that are stored with a result -> one HTML page that needs nothing else, no network either."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import UndefinedError

from trimformer.errors import CheckpointError, DataError
from trimformer.model.sites import place
from trimformer.report import pictures, side_by_side, summary
from trimformer.report.render import render
from trimformer.report.summary import Facts

MANIFEST, SWEEP = "trimformer.json", "frontier.json"
CHECKPOINT = "the folder of the checkpoint"


def from_folder(folder: Path) -> str:
    """The page of a checkpoint or a sweep, from the JSON in its folder.

    Raises:
        DataError: there is none, or it is damaged or made by another program.
    """
    found = next((folder / name for name in (SWEEP, MANIFEST) if (folder / name).is_file()), None)
    if found is None:
        raise DataError(f"{folder} has neither {MANIFEST} nor {SWEEP}: give a folder that prune or sweep wrote")
    try:
        facts = json.loads(found.read_text(encoding="utf-8"))
        return sweep_page(facts) if found.name == SWEEP else checkpoint_page(facts, str(folder))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, UndefinedError) as error:
        raise DataError(
            f"{found} is damaged or not written by this version of trimformer ({type(error).__name__}: {error}): "
            "make the result again"
        ) from error


def checkpoint_page(facts: Facts, folder: str = CHECKPOINT) -> str:
    """The page of one pruned checkpoint.

    Args:
        facts: its manifest.
        folder: where it is, for the lines that load it.
    """
    rows = summary.metrics(facts)
    return render(
        "checkpoint.html",
        model=summary.name(facts),
        method=facts["method"],
        verdict=summary.verdict(facts),
        warnings=summary.warnings([facts]),
        shares=summary.shares(facts),
        remarks=summary.remarks(facts),
        metrics=rows,
        metric_pictures=[pictures.intervals(row.name, {"dense": row.dense, "pruned": row.pruned}) for row in rows],
        blocks=summary.blocks(facts),
        curve_pictures=_curves(facts, summary.removed(facts)),
        stages=summary.stages(facts),
        cached=_cached(facts),
        loading=summary.loading(facts, folder),
        command=facts.get("command"),
        settings=summary.settings(facts),
        versions=facts["versions"],
    )


def sweep_page(results: Sequence[Facts]) -> str:
    """The page of a sweep: `results` are the manifests of all sizes."""
    first = results[0]
    judged = summary.metrics(first)[:1]
    return render(
        "sweep.html",
        results=results,
        model=summary.name(first),
        method=first["method"],
        verdict=side_by_side.sweep_verdict(results),
        remarks=side_by_side.sweep_remarks(results),
        warnings=summary.warnings(results),
        pictures=_frontiers(results),
        metric=judged[0].name if judged else None,
        table=side_by_side.sweep_rows(results),
        kept=[(side_by_side.asked(facts), summary.blocks(facts)) for facts in results],
        curve_pictures=_curves(first, {}),
        stages=side_by_side.sweep_stages(results),
        cached=_cached(first),
        command=first.get("command"),
        settings=summary.settings(first),
        versions=first["versions"],
    )


def comparison_page(
    title: str,
    runs: Sequence[side_by_side.Run],
    *,
    failures: Sequence[str] = (),
    command: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> str:
    """The page of methods side by side.

    Args:
        title: of the page.
        runs: those that succeeded: of each `task`, `method`, `seed`, and as in a manifest `budget`, `metrics`,
            `latency`, `versions` and `warnings`.
        failures: a line for every run that failed.
        command: what to type to make it again.
        settings: what else the results depend on, by name.

    Raises:
        DataError: no run succeeded.
    """
    if not runs:
        raise DataError("no run of the comparison succeeded: there is nothing to report")
    tables = list(side_by_side.task_tables(runs))
    return render(
        "comparison.html",
        title=title,
        verdict=side_by_side.comparison_verdict(runs),
        tables=tables,
        warnings=[*failures, *summary.warnings(runs)],
        remarks=side_by_side.comparison_remarks(runs),
        pictures=[pictures.methods(table) for table in tables],
        command=command,
        settings=[*(settings or {}).items(), ("versions", summary.versions_text(runs[0]["versions"]))],
        versions=runs[0]["versions"],
    )


def check_writable(out: Path, *, overwrite: bool) -> None:
    """Refuse a page that exists or cannot be made, before any work is done.

    Raises:
        CheckpointError: it exists and `overwrite` is not set, it is a folder, or its folder cannot be written to.
    """
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if out.is_dir() or not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise CheckpointError(f"{out} cannot be written: give a file, such as report.html, in a folder that can be")
    if out.exists() and not overwrite:
        raise CheckpointError(f"{out} exists: choose another file, or replace it with `overwrite=True`")


def write(page: str, out: Path) -> None:
    """Write a page, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            (Path(scratch) / out.name).write_text(page, encoding="utf-8")
            (Path(scratch) / out.name).replace(out)
    except OSError as error:
        raise CheckpointError(f"cannot write {out}: {error}; choose another file") from error


def _curves(facts: Facts, removed: Mapping[str, float]) -> list[str]:
    """A picture for every kind of sublayer that has removal curves."""
    curves = facts.get("curves", {})
    sublayers = dict.fromkeys(place(site)[1] for site, curve in curves.items() if curve[-1] > 0)
    return [pictures.removal(sublayer, curves, removed) for sublayer in sublayers]


def _frontiers(results: Sequence[Facts]) -> list[str]:
    """The judging metric against every share that is known; none where nothing was judged."""
    judged = [row for facts in results for row in summary.metrics(facts)[:1]]
    if not judged:
        return []
    cost = side_by_side.common_cost(results)
    by_measure: dict[str, list[float | None]] = {
        f"{summary.short_cost(cost)} kept": [facts["kept"][cost] for facts in results],
        "parameters kept": [summary.parameter_share(facts) for facts in results],
        "time, measured": [summary.latency_share(facts) for facts in results],
    }
    return [
        pictures.frontier(
            judged[0].name,
            measure,
            [(100 * (share or 0), row.pruned) for share, row in zip(shares, judged, strict=True)],
            judged[0].dense,
        )
        for measure, shares in by_measure.items()
        if None not in shares
    ]


def _cached(facts: Facts) -> bool:
    """Whether an earlier run's measurement was used."""
    return bool(facts.get("curves")) and not facts["seconds"]["measuring"]
