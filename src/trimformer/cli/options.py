"""Arguments and options that several commands have: their types and help for typer, and the reading of their text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from trimformer.errors import InvalidOption
from trimformer.pruning.budget import Budget

HELP_GROUPS = ("Make it smaller", "Measure", "Take it along", "About")
"""Headings of `trimformer --help`, in order; `HELP_PLACE` of a command's file is one of them and a place below it."""

ModelArgument = Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")]
TaskOption = Annotated[str, typer.Option(help="What to calibrate and judge on; see `trimformer list`.")]
DataOption = Annotated[
    str | None, typer.Option(help="Folder with train and validation files, or one file; else the hub.")
]
LengthOption = Annotated[int | None, typer.Option(help="Cut rows at this many tokens; else the task's own length.")]
SeedOption = Annotated[int, typer.Option(help="Of all sampling.", min=0, max=2**32 - 1)]
FlopsOption = Annotated[float | None, typer.Option(help="Share of FLOPs to keep, in (0, 1].")]
ParamsOption = Annotated[float | None, typer.Option(help="Share of sublayer parameters to keep, in (0, 1].")]
LatencyOption = Annotated[float | None, typer.Option(help="Share of the measured time to keep, in (0, 1].")]
RoundOption = Annotated[int, typer.Option(help="Keep neurons of each layer in multiples of this.", min=1)]
UniformOption = Annotated[
    bool, typer.Option("--uniform", help="The same sizes in every layer: loads without trimformer.")
]
CountedLengthOption = Annotated[
    float | None,
    typer.Option(help="Count FLOPs and measure time at this length; else the calibration rows' mean.", min=1),
]
BatchOption = Annotated[
    int | None, typer.Option(help="Measure time on this many rows at once; else 32, fewer where rows are long.", min=1)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print facts as JSON on stdout, everything else on stderr.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder if it exists.")]
ReportOption = Annotated[Path | None, typer.Option(help="Write a report too: one HTML page with everything in it.")]
PushOption = Annotated[str | None, typer.Option(help="Upload the checkpoint to this repository of the hub.")]
MethodOption = Annotated[str, typer.Option(help="Pruning method; see `trimformer list`.")]
TokensOption = Annotated[int, typer.Option(help="Calibrate on rows that hold this many tokens.", min=1)]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, or auto: a GPU if there is one.")]
DtypeOption = Annotated[
    str, typer.Option(help="Precision of the weights: float32, bfloat16, float16, or auto: that of the checkpoint.")
]
DeviceMapOption = Annotated[
    str | None, typer.Option(help="auto: spread the model over GPU, CPU memory and disk; pruned block by block.")
]
MaxMemoryOption = Annotated[
    str | None, typer.Option(help="What a device map may fill, such as 0=10GiB,cpu=20GiB; else all that is free.")
]
CacheOption = Annotated[Path | None, typer.Option(help="Folder where measurements are kept for later runs.")]
TrainOption = Annotated[
    list[str] | None,
    typer.Option("--train", help="rows, patience, or an argument of transformers' Trainer, name=value; repeatable."),
]
DenseTooOption = Annotated[
    bool, typer.Option("--dense-too", help="Fine-tune the dense model as well, in place of timing some of its steps.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with this command's interrupted run.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Option of the method, name=value; repeatable.")]


def budgets(texts: Mapping[str, str | None], round_to: int = 1) -> list[Budget]:
    """Budgets from shares with commas by cost, largest first and each once.

    Raises:
        InvalidOption: a share is no number or outside (0, 1].

    >>> [budget.keep_fraction for budget in budgets({"flops": "0.4,0.8", "params": None})]
    [0.8, 0.4]
    """
    return [
        Budget.of(cost, share, round_to=round_to)
        for cost, text in texts.items()
        if text is not None
        for share in _shares(cost, text)
    ]


def _shares(cost: str, text: str) -> list[float]:
    try:
        return sorted({float(share) for share in text.split(",")}, reverse=True)
    except ValueError:
        raise InvalidOption(f"--{cost} {text!r} must be shares with commas, such as 0.8,0.6,0.4") from None


def assignments(texts: Sequence[str] | None, option: str = "--set", example: str = "ridge=1e-3") -> dict[str, str]:
    """The values of `--set name=value`, or of another such option, by name.

    Raises:
        InvalidOption: one of them is no assignment.

    >>> assignments(["ridge=1e-3"])
    {'ridge': '1e-3'}
    """
    pairs = [text.partition("=") for text in texts or ()]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise InvalidOption(f"{option} {name!r} must be name=value, such as {option} {example}")
    return {name: value for name, _, value in pairs}
