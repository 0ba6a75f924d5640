"""`trimformer export`: a checkpoint for other runtimes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from trimformer import plugins
from trimformer.cli import console, steps
from trimformer.cli.console import error_console, out_console, progress_bars
from trimformer.cli.options import DataOption, JsonOption, LengthOption, ModelArgument, OverwriteOption
from trimformer.data.encoding import encode_texts
from trimformer.errors import InvalidOption
from trimformer.export.folder import CHECK_TEXTS, evenly_chosen, export
from trimformer.export.onnx.model import require_onnx
from trimformer.export.onnx.pooling import read_pooling
from trimformer.judging.manifest import Origin
from trimformer.judging.task import Task
from trimformer.model import checkpoint
from trimformer.model.limits import fitted
from trimformer.model.manifest import read_manifest
from trimformer.report import terminal

HELP_PLACE = ("Take it along", 1)


def export_command(
    model: ModelArgument,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Write model.int8.onnx as well.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write; else MODEL-onnx.")] = None,
    task: Annotated[str | None, typer.Option(help="Compare and judge on this; else what MODEL was pruned for.")] = None,
    data: DataOption = None,
    max_length: LengthOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model, dense or pruned, as ONNX; compared with PyTorch, and judged by the task's metrics."""
    if not onnx:
        raise InvalidOption("say what to write: --onnx, and --int8 as well where int8 is wanted")
    require_onnx()
    target = out or Path(f"{model.rstrip('/')}-onnx" if Path(model).is_dir() else f"{Path(model).name}-onnx")
    checkpoint.check_writable(target, overwrite=overwrite, source=model, weights="*.onnx")
    task, data = (task, data) if task else _pruned_for(model, data)
    if int8 and task is None:
        raise InvalidOption("--int8 changes what the model answers: say how to measure that, with --task and --data")
    pooling = read_pooling(model)
    chosen: Task | None = plugins.load("tasks", task) if task else None
    rows = chosen.rows(data, "validation") if chosen else None
    dense = checkpoint.load_model(model, chosen.auto_class if chosen else None)
    tokenizer = fitted(checkpoint.load_tokenizer(model), dense)
    with progress_bars(error_console) as progress:
        if chosen and rows is not None:
            features = evenly_chosen(chosen.encode(rows, tokenizer, max_length))
            judge = partial(
                chosen.evaluate, tokenizer=tokenizer, rows=rows, dense=dense, max_length=max_length, progress=progress
            )
        else:
            features, judge = encode_texts([CHECK_TEXTS], tokenizer, max_length), None
        facts = export(
            dense,
            tokenizer,
            target,
            features,
            int8=int8,
            judge=judge,
            pooling=pooling,
            overwrite=overwrite,
            facts={"source": model, "task": task, "data": data},
            progress=progress,
            extra_files=checkpoint.sentence_transformers_files(model),
        )
    if as_json:
        steps.print_json(facts | {"out": str(target)})
        return
    out_console.print(terminal.export_table(facts))
    console.written("export", target, f"opset {facts['opset']}, outputs {', '.join(facts['outputs'])}")


def _pruned_for(model: str, data: str | None) -> tuple[str | None, str | None]:
    """Task of the manifest with the rows given, else with its own where they are still on this machine.

    Raises:
        InvalidOption: rows are given, but nothing says for which task.
    """
    origin = Origin.from_json(read_manifest(model))
    if data is not None:
        if not origin.task:
            raise InvalidOption(f"--data needs --task: {model} does not say what it was pruned for")
        return origin.task, data
    return (origin.task or None, origin.data) if origin.data and Path(origin.data).exists() else (None, None)


PROVIDES = {"export": export_command}
