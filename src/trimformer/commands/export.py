"""`trimformer export`: a checkpoint for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimformer.cli.options import (
    ColumnOption,
    DataOption,
    JsonOption,
    LengthOption,
    ModelArgument,
    OverwriteOption,
    TrustOption,
    columns_named,
)
from trimformer.errors import InvalidOption

HELP_PLACE = ("Take it along", 1)


def export_command(
    context: typer.Context,
    model: ModelArgument,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Write model.int8.onnx as well.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write; else MODEL-onnx.")] = None,
    task: Annotated[str | None, typer.Option(help="Compare and judge on this; else what MODEL was pruned for.")] = None,
    data: DataOption = None,
    column: ColumnOption = None,
    max_length: LengthOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write a model, dense or pruned, as ONNX; compared with PyTorch, and judged by the task's metrics."""
    from trimformer.cli import console, export_run, steps
    from trimformer.export.onnx.model import require_onnx
    from trimformer.model.checkpoint import check_writable
    from trimformer.report import terminal
    from trimformer.report.headline import exported

    if not onnx:
        raise InvalidOption("say what to write: `onnx`, and `int8` as well where that is wanted")
    require_onnx()
    target = out or Path(f"{model.rstrip('/')}-onnx" if Path(model).is_dir() else f"{Path(model).name}-onnx")
    check_writable(target, overwrite=overwrite, source=model, weights="*.onnx")
    steps.claim(context, target)
    origin = steps.judged_on(model, task, data, steps.columns_of(model, data, columns_named(column)))
    gone = "" if origin.task else steps.rows_gone(model)
    if int8 and not origin.task:
        why = f", and {gone}" if gone else ""
        raise InvalidOption(
            f"`int8` changes what the model answers{why}: say how to measure that, with `task` and `data`"
        )
    if gone:
        console.say(f"{gone}: compared on a few sentences, judged on nothing")
    with console.progress_bars(console.error_console) as progress:
        facts = export_run.export_for(
            origin, target, int8=int8, max_length=max_length, overwrite=overwrite, progress=progress
        )
    if as_json:
        steps.print_json({**facts, "out": str(target)})
        return
    console.headline(exported(facts))
    console.out_console.print(terminal.export_table(facts))
    console.written("export", target, f"opset {facts['opset']}, outputs {', '.join(facts['outputs'])}")


PROVIDES = {"export": export_command}
