"""The report: one HTML page of the facts stored with a result, which needs nothing else, no network either."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimformer.errors import CheckpointError, DataError
from trimformer.judging.manifest import DENSE, PRUNED, Manifest
from trimformer.judging.names import shared_name
from trimformer.model.folders import check_place, write_text
from trimformer.model.manifest import checked
from trimformer.model.sites import place
from trimformer.model.trimformer_checks import MANIFEST, listed_files
from trimformer.pruning.facts import PruningFacts
from trimformer.report import pictures, side_by_side, summary, units
from trimformer.report.headline import headline, kept
from trimformer.report.loading import is_of_sentence_transformers, loading, loads_code
from trimformer.report.render import render

SWEEP = "frontier.json"
CHECKPOINT = "the folder of the checkpoint"


def from_folder(folder: Path) -> str:
    """Make the HTML page of a checkpoint or a sweep from the JSON in its folder.

    Raises:
        DataError: there is none, it is damaged or made by another program, or nothing was pruned.
    """
    found = next((folder / name for name in (SWEEP, MANIFEST) if (folder / name).is_file()), None)
    if found is None:
        raise DataError(f"{folder} has neither {MANIFEST} nor {SWEEP}: give a folder that prune or sweep wrote")
    results = _read_results(found)
    return sweep_page(results) if found.name == SWEEP else checkpoint_page(results[0], str(folder))


def _read_results(file: Path) -> list[Manifest]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        listed_files(file.parent)
        return _pruned(checked(list, content, "") if file.name == SWEEP else [content])
    except (OSError, ValueError, RecursionError, DataError) as error:
        raise DataError(
            f"{file} is damaged or not written by this version of trimformer ({error}): make the result again"
        ) from error


def _pruned(contents: Sequence[Any]) -> list[Manifest]:
    """Read the records of pruned models, at least one."""
    results = [Manifest.from_json(content) for content in contents]
    if not (results and all(result.pruning for result in results)):
        raise DataError("there is no result")
    return results


def checkpoint_page(facts: Manifest, folder: str = CHECKPOINT) -> str:
    """Make the HTML page of one pruned checkpoint.

    Args:
        facts: everything known of it.
        folder: where it is, for the lines that load it.

    Raises:
        DataError: the model was not pruned.
    """
    pruning, rows = facts.pruning, summary.metrics(facts)
    return render(
        "checkpoint.html",
        model=summary.name(facts),
        method=pruning.method,
        verdict=headline(facts),
        kept=kept(facts),
        warnings=summary.each_once([pruning.warnings]),
        shares=summary.shares(facts),
        remarks=summary.remarks(facts),
        metrics=rows,
        metric_pictures=[pictures.intervals(row.name, {DENSE: row.dense, PRUNED: row.pruned}) for row in rows],
        blocks=units.blocks(facts),
        curve_pictures=curve_pictures(pruning.curves, units.removed(facts)),
        stages=summary.stages(facts),
        cached=_cached(pruning),
        loading=loading(
            facts, shared_name(folder), sentences=is_of_sentence_transformers(folder), code=loads_code(folder)
        ),
        command=facts.origin.command,
        settings=summary.settings(facts),
        versions=pruning.versions,
    )


def sweep_page(results: Sequence[Manifest]) -> str:
    """Make the HTML page of a sweep from the facts of all sizes.

    Raises:
        DataError: there is no size, or one of a model that was not pruned.
    """
    if not results:
        raise DataError("a sweep without any size: there is nothing to report")
    first, pruning = results[0], results[0].pruning
    judged = summary.metrics(first)[:1]
    return render(
        "sweep.html",
        results=results,
        model=summary.name(first),
        method=pruning.method,
        verdict=side_by_side.sweep_verdict(results),
        remarks=side_by_side.sweep_remarks(results),
        warnings=summary.each_once(facts.pruning.warnings for facts in results),
        pictures=[pictures.frontier(drawn) for drawn in side_by_side.frontiers(results)],
        metric=judged[0].name if judged else None,
        table=side_by_side.sweep_rows(results),
        kept=[(side_by_side.asked(facts.pruning.budget), units.blocks(facts)) for facts in results],
        curve_pictures=curve_pictures(pruning.curves, {}),
        stages=side_by_side.sweep_stages(results),
        cached=_cached(pruning),
        command=first.origin.command,
        settings=summary.settings(first),
        versions=pruning.versions,
    )


def comparison_page(
    title: str,
    runs: Sequence[side_by_side.Run],
    *,
    failures: Sequence[str] = (),
    command: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> str:
    """Make the HTML page of methods side by side.

    Args:
        title: of the page.
        runs: those that succeeded.
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
        warnings=[*failures, *summary.each_once(run.warnings for run in runs)],
        remarks=side_by_side.comparison_remarks(runs),
        pictures=[pictures.methods(table) for table in tables],
        command=command,
        settings=[*(settings or {}).items(), ("versions", summary.versions_text(runs[0].versions))],
        versions=runs[0].versions,
    )


def check_page_writable(out: Path, *, overwrite: bool) -> None:
    """Refuse a page that exists or cannot be made, before any work is done.

    Raises:
        CheckpointError: it exists and `overwrite` is not set, it is a folder, or its folder cannot be written to.
    """
    if out.is_dir():
        raise CheckpointError(f"{out} cannot be written, it is a folder: give a file, such as report.html")
    check_place(out)
    if out.exists() and not overwrite:
        raise CheckpointError(f"{out} exists: choose another file, or replace it with `overwrite=True`")


def write_page(page: str, out: Path) -> None:
    """Write a page, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_text(page, out)


def curve_pictures(curves: Mapping[str, Sequence[float]], removed: Mapping[str, float]) -> list[str]:
    """Draw a picture for every kind of sublayer that has removal curves; `removed` is a share by site."""
    sublayers = dict.fromkeys(place(site)[1] for site, curve in curves.items() if curve[-1] > 0)
    return [pictures.removal(sublayer, curves, removed) for sublayer in sublayers]


def _cached(pruning: PruningFacts) -> bool:
    """Tell whether an earlier run's measurement was used."""
    return bool(pruning.curves) and not pruning.seconds["measuring"]
