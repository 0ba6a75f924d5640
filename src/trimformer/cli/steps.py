"""Steps that several commands share: load a model, gather a project, save a result, report it.

Of several processes only the first writes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import typer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer import plugins, processes
from trimformer.cli import console
from trimformer.cli.console import out_console
from trimformer.data.columns import naming_columns
from trimformer.data.files import read_rows, some_rows
from trimformer.data.rows import Split
from trimformer.errors import DataError, InvalidOption
from trimformer.export import upload
from trimformer.judging.guard import check_metric
from trimformer.judging.manifest import Manifest, Origin
from trimformer.judging.names import own_name
from trimformer.judging.project import Project
from trimformer.judging.result import TaskResult
from trimformer.judging.task import UNLABELLED, Task, chosen_task, fitted_to, has_head, taught_by, trained_task
from trimformer.model import checkpoint
from trimformer.model.claims import claimed
from trimformer.model.folders import explained
from trimformer.model.manifest import as_text, read_manifest
from trimformer.model.placement import Placement
from trimformer.model.sentence_files import MODULES, pooling_of, sentence_transformers_files
from trimformer.progress import Progress
from trimformer.pruning.budget import Budget
from trimformer.pruning.cache import MeasuredCache, default_folder
from trimformer.pruning.plan import Plan, check_one_size
from trimformer.report import page, plans, saving, terminal
from trimformer.report.characters import in_a_line
from trimformer.report.headline import headline, kept
from trimformer.report.loading import in_one_line, is_of_sentence_transformers, loading, loads_code


def load_with_tokenizer(name: str, task: Task, placement: Placement) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model with the head that the task needs, and its tokenizer; say so where its pooling is assumed."""
    model, tokenizer = checkpoint.place_model(name, task.auto_class, placement), checkpoint.load_tokenizer(name)
    if task.auto_class == "AutoModel" and pooling_of(model).said_by == "nothing":
        console.say(
            f"{name} does not say how it pools (no {MODULES}): its embedding is taken as the mean of its tokens"
        )
    return model, tokenizer


def named_task(name: str, model: str, data: str | None) -> str:
    """Give the name of the task, and say so where it was left to be chosen."""
    chosen = chosen_task(name, model, data)
    if name != chosen:
        console.say(f"task: {chosen}, {_why_unlabelled(model, data) if chosen == UNLABELLED else BY_HEAD_AND_ROWS} …")
    return chosen


BY_HEAD_AND_ROWS = "by the model's head and the rows"


def _why_unlabelled(model: str, data: str | None) -> str:
    taught = taught_by(data) if data is not None else []
    if taught:
        return (
            f"although the rows have labels ({' or '.join(taught)}): {model} has no head for them; teach it first, by "
            "`trimformer finetune`"
        )
    return "no labels were found; if there are some, name their column by --column label=…"


def columns_of(model: str, data: str | None, named: Mapping[str, str]) -> Mapping[str, str]:
    """Say what columns are called: as the user does, else as those the model was made with, if the data has them."""
    known = Origin.from_json(read_manifest(model)).columns
    if named or not known or data is None:
        return named
    try:
        with naming_columns(known):
            read_rows(data, "validation")
    except DataError:
        return named
    console.say(f"columns: {', '.join(f'{name}={own}' for name, own in known.items())}, as {model} was made with …")
    return known


def task_to_judge(name: str, model: str, data: str | None, columns: Mapping[str, str]) -> str:
    """Give the name of the task, which rows of text are enough for, and say so where it was left to be chosen."""
    with naming_columns(columns):
        return named_task(name, model, data)


def task_to_train(
    name: str, model: str, data: str | None, columns: Mapping[str, str], *, new_head: bool = False
) -> str:
    """Give the name of the task to train on, and say so where it was left to be chosen; what is no task is refused."""
    with naming_columns(columns):
        chosen = trained_task(name, model, data, new_head=new_head)
    known = has_head(model, plugins.load("tasks", chosen)) and not new_head
    if name != chosen:
        console.say(f"task: {chosen}, {BY_HEAD_AND_ROWS if known else 'by the rows'} …")
    return chosen


HUB = "hub"
"""Word for where rows come from that nobody named."""


def judged_on(model: str, task: str | None, data: str | None, columns: Mapping[str, str]) -> Origin:
    """Say what a model is judged on: the task and rows given, else those that the model was pruned for.

    The task is empty where none is given, and the manifest names no rows that are still on this machine.

    Raises:
        InvalidOption: rows are given, but nothing says for which task.
    """
    if task is not None:
        return Origin(source=model, task=task, data=data or "", columns=columns)
    known = Origin.from_json(read_manifest(model))
    if data is not None:
        if not known.task:
            raise InvalidOption(f"`data` needs `task`: {model} does not say what it was pruned for")
        return Origin(source=model, task=known.task, data=data, columns=columns)
    if not known.data or not Path(own_name(known.data)).exists():
        return Origin(source=model)
    return replace(known, source=model, data=own_name(known.data), columns=columns or known.columns)


def rows_gone(model: str) -> str:
    """Say which rows a model was pruned for that are not found from here; empty where it names none, or they are."""
    known = Origin.from_json(read_manifest(model)).data
    if known in ("", HUB) or Path(own_name(known)).exists():
        return ""
    place = "" if Path(known).is_absolute() else f" from {Path.cwd()}, and may be elsewhere"
    return f"the rows that {model} was pruned for, {known}, are not found{place}"


def gather(
    origin: Origin,
    placement: Placement,
    progress: Progress,
    *,
    max_length: int | None,
    evaluation_rows: int | None = None,
    metric: str | None = None,
) -> Project:
    """Make a project of what the user named; a metric is checked and rows are read before the model is loaded."""
    origin = replace(origin, columns=columns_of(origin.source, origin.data or None, origin.columns))
    with naming_columns(origin.columns):
        origin = replace(origin, task=named_task(origin.task, origin.source, origin.data or None))
        chosen = fitted_to(plugins.load("tasks", origin.task), checkpoint.load_config(origin.source))
        check_metric(chosen, metric)
        train, validation = (chosen.rows(origin.data or None, split) for split in get_args(Split))
    dense, tokenizer = load_with_tokenizer(origin.source, chosen, placement)
    return Project(
        dense,
        tokenizer,
        chosen,
        train,
        some_rows(validation, evaluation_rows),
        max_length=max_length,
        progress=progress,
        stored_dtype=checkpoint.dtype_to_store(dense, origin.source),
        origin=replace(origin, data=origin.data or HUB),
    )


def kept_measurements(folder: Path | None) -> MeasuredCache | None:
    """Open the cache in a folder, or in the user's own; what is found, or that there is none, is said on stderr."""
    place = folder or default_folder()
    if place is None:
        console.say("nothing is kept for later runs, this user has no home: name a folder, `--cache FOLDER`")
        return None
    return MeasuredCache(place, say=console.say)


def save_pruned(result: TaskResult, source: str, tokenizer: Any, out: Path, *, overwrite: bool) -> None:
    """Write the pruned model as a checkpoint, in the precision it is to have and with the extra files of its source."""
    if not processes.is_first():
        return
    model = result.pruning.model
    saving.save(
        model,
        out,
        tokenizer=tokenizer,
        manifest=result.manifest,
        overwrite=overwrite,
        dtype=checkpoint.dtype_to_store(model, source),
        extra_files=sentence_transformers_files(source),
    )


def report_pruned(result: TaskResult, out: Path, *, as_json: bool) -> None:
    """Print a saved result: tables and how to load it, or the manifest."""
    console.warn(result.pruning.facts.warnings)
    if as_json:
        print_json(result.manifest | {"out": str(out)})
        return
    console.headline(headline(result.facts), kept(result.facts))
    out_console.print(terminal.result_table(result.facts))
    out_console.print(terminal.units_table(result.pruning.facts.units))
    tell_checkpoint(result.facts, out)


def tell_checkpoint(facts: Manifest, out: Path) -> None:
    """Print where a checkpoint is, and the line that loads it."""
    console.written("checkpoint", out)
    lines = loading(facts, str(out), sentences=is_of_sentence_transformers(out), code=loads_code(out))
    console.written_code("load it", in_one_line(lines))


def check_plan(out: Path | None, budgets: Sequence[Budget], *, overwrite: bool) -> None:
    """Refuse a file of sizes that cannot be written, or of more than one budget, before any work is done.

    Raises:
        TrimformerError: says what to ask for.
    """
    if out is not None:
        check_one_size(budgets)
        plans.check_sizes_writable(out, overwrite=overwrite)


def report_plan(plan: Plan, out: Path | None, report: Path | None, *, command: str, as_json: bool) -> None:
    """Write what was asked for of a plan, and print its tables or, as JSON, all of it."""
    console.warn(plan.warnings)
    if out is not None and processes.is_first():
        plan.save(out, overwrite=True)
    if report is not None:
        write_report(plans.plan_page(plan, command), report)
    if as_json:
        print_json(plan.facts)
        return
    for table in terminal.plan_tables(plan):
        out_console.print(table)
    console.remarks(plans.remarks(plan))
    if out is not None:
        console.written("sizes", out, f"edit them, and prune with --sizes {out}")


def claim(context: typer.Context, *outputs: Path | None) -> None:
    """Have the outputs of a command for itself until it ends; another run that is at work on one ends this.

    Raises:
        CheckpointError: names the output.
    """
    for out in outputs if processes.is_first() else ():
        if out is not None:
            with explained(out):
                context.with_resource(claimed(out))


def check_asked(report: Path | None, push_to_hub: str | None = None, *, overwrite: bool) -> None:
    """Refuse a report or an upload that cannot be made, before any work is done.

    Raises:
        TrimformerError: the file exists or cannot be written, or the upload cannot work.
    """
    if report is not None:
        page.check_page_writable(report, overwrite=overwrite)
    if push_to_hub is not None:
        upload.check_push(push_to_hub)


def write_report(html: str, report: Path) -> None:
    """Write a report page, and say where it is."""
    if processes.is_first():
        page.write_page(html, report)
    console.say(f"report: {in_a_line(str(report))}")


def push(out: Path, repo: str) -> None:
    """Upload a saved checkpoint, and say where it is."""
    if not processes.is_first():
        return
    console.say(f"uploading {out} to {repo} …")
    console.say(f"uploaded: {upload.push(out, repo)}")


def print_json(facts: Any) -> None:
    """Print facts as JSON on stdout, for programs."""
    sys.stdout.write(as_text(facts))
