"""`trimformer latency`: time models side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from trimformer.cli.options import DeviceOption, JsonOption, TrustOption
from trimformer.model.parameters import DEVICE

HELP_PLACE = ("Measure", 2)


def latency_command(
    models: Annotated[list[str], typer.Argument(help="Checkpoint folders, hub names or exported folders.")],
    runtimes: Annotated[str, typer.Option(help="With commas: eager, compile, onnx, int8.")] = "eager",
    shapes: Annotated[str, typer.Option(help="Rows x tokens of a batch, with commas.")] = "1x32,32x128",
    runs: Annotated[int, typer.Option(help="Passes of each that count.", min=1)] = 15,
    threads: Annotated[int | None, typer.Option(help="CPU threads; else PyTorch's own number.", min=1)] = None,
    device: DeviceOption = DEVICE.default,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Time models on the same batches, in turn: PyTorch, compiled, or ONNX Runtime."""
    from trimformer.cli import console, latency_run, steps
    from trimformer.report import terminal

    with console.progress_bars(console.error_console) as progress:
        facts = latency_run.time_models(
            models, runtimes=runtimes, shapes=shapes, runs=runs, threads=threads, device=device, progress=progress
        )
    if as_json:
        steps.print_json(facts)
    else:
        console.out_console.print(terminal.latency_table(facts))


PROVIDES = {"latency": latency_command}
