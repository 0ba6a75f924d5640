"""What several commands do: load a model, gather a project, save a result, report it.

Of several processes only the first writes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.text import Text
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer import plugins, processes
from trimformer.cli import console
from trimformer.cli.console import out_console
from trimformer.export import upload
from trimformer.judging.manifest import Origin
from trimformer.judging.project import Project, TaskResult
from trimformer.judging.task import Task
from trimformer.model import checkpoint
from trimformer.model.manifest import as_text
from trimformer.model.placement import Placement
from trimformer.progress import Progress
from trimformer.report import page, saving, summary, terminal


def load(name: str, task: Task, placement: Placement) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with the head that the task needs, and its tokenizer."""
    return checkpoint.place_model(name, task.auto_class, placement), checkpoint.load_tokenizer(name)


HUB = "hub"
"""What is told of rows that nobody named: they come from there."""


def gather(origin: Origin, max_length: int | None, placement: Placement, progress: Progress) -> Project:
    """A project from what the user named: rows are read before the model is."""
    chosen: Task = plugins.load("tasks", origin.task)
    train, validation = chosen.rows(origin.data or None, "train"), chosen.rows(origin.data or None, "validation")
    dense, tokenizer = load(origin.source, chosen, placement)
    return Project(
        dense,
        tokenizer,
        chosen,
        train,
        validation,
        max_length=max_length,
        progress=progress,
        stored_dtype=checkpoint.dtype_to_store(dense, origin.source),
        origin=replace(origin, data=origin.data or HUB),
    )


def save(result: TaskResult, source: str, tokenizer: Any, out: Path, *, overwrite: bool) -> None:
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
        extra_files=checkpoint.sentence_transformers_files(source),
    )


def report(result: TaskResult, out: Path, *, as_json: bool) -> None:
    """Print a saved result: tables and how to load it, or the manifest."""
    console.warn(result.pruning.facts.warnings)
    if as_json:
        print_json(result.manifest | {"out": str(out)})
        return
    out_console.print(Text(summary.verdict(result.facts), style="bold"), "")
    out_console.print(terminal.result_table(result.facts))
    out_console.print(terminal.units_table(result.pruning.facts.units))
    name = type(result.pruning.model).__name__
    how = f"load it: import trimformer, transformers; model = transformers.{name}.from_pretrained({str(out)!r})"
    console.written("checkpoint", out, how)


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
    console.say(f"report: {report}")


def push(out: Path, repo: str) -> None:
    """Upload a saved checkpoint, and say where it is."""
    if not processes.is_first():
        return
    console.say(f"uploading {out} to {repo} …")
    console.say(f"uploaded: {upload.push(out, repo)}")


def print_json(facts: Any) -> None:
    """Facts on stdout, for programs."""
    sys.stdout.write(as_text(facts))
