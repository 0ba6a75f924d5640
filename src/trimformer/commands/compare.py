"""`trimformer compare`: methods × budgets × tasks × seeds, from one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimformer.cli.options import JsonOption, ReportOption
from trimformer.errors import InvalidOption

if TYPE_CHECKING:
    from trimformer.compare.rows import Row

HELP_PLACE = ("Measure", 3)


def compare_command(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="YAML file: tasks, methods, budgets, seeds.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; cells that it has are not run again.")],
    show: Annotated[
        bool, typer.Option("--show", help="Run nothing: tables and plots of the results there are.")
    ] = False,
    report: ReportOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the report if it exists.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare methods on tasks at several sizes: results, tables and plots; goes on where it was interrupted."""
    from rich.markdown import Markdown

    from trimformer.cli import console, steps
    from trimformer.compare import markdown, plots
    from trimformer.compare.plan import read_plan
    from trimformer.compare.rows import as_facts
    from trimformer.compare.run import run, stored
    from trimformer.model.folders import check_place, write_text

    plan = read_plan(file)
    check_place(out / markdown.FILE)
    steps.check_asked(report, overwrite=overwrite)
    steps.claim(context, out, report)
    if show:
        rows = stored(plan, out, console.say)
        if not rows:
            raise InvalidOption(f"{out} has no results of {file}: run it without `show`")
    else:
        rows = run(plan, out, console.say, lambda: console.progress_bars(console.error_console))
    text = markdown.document(plan, rows)
    write_text(text, out / markdown.FILE)
    files = plots.write_plots(plan, rows, out)
    if report is not None:
        steps.write_report(_page(file, rows, context.obj), report)
    if as_json:
        steps.print_json([as_facts(row) for row in rows])
        return
    console.out_console.print(Markdown(text))
    written = ", ".join(path.name for path in [out / markdown.FILE, *files])
    console.out_console.print(f"in {out}: {written}", soft_wrap=True)


def _page(file: Path, rows: Sequence[Row], command: str) -> str:
    from trimformer.report.page import comparison_page
    from trimformer.report.side_by_side import Run

    runs = [
        Run(
            task=row.task,
            method=row.method,
            seed=row.seed,
            budget=row.outcome.budget,
            metrics=row.outcome.metrics,
            latency=row.outcome.latency,
            warnings=row.outcome.warnings,
            versions=row.outcome.versions,
        )
        for row in rows
        if row.outcome
    ]
    failures = [
        f"{row.method} on {row.task} at {row.share:g} of {row.cost}, seed {row.seed}, failed: {row.failure}"
        for row in rows
        if not row.outcome
    ]
    return comparison_page(f"Comparison: {file.stem}", runs, failures=failures, command=command)


PROVIDES = {"compare": compare_command}
