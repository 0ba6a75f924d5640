"""Arguments and options that several commands have: their types and help for typer, and the reading of their text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trimformer.errors import InvalidOption
from trimformer.model.parameters import DEVICE, DEVICE_MAP, DTYPE, MAX_MEMORY, Parameter
from trimformer.pruning.parameters import (
    BATCH_SIZE,
    CALIBRATION_TOKENS,
    EVALUATION_ROWS,
    MAX_LENGTH,
    METHOD,
    MINUTES,
    ROUND_TO,
    SEED,
    SEQUENCE_LENGTH,
    share,
)

HELP_GROUPS = ("Make it smaller", "Measure", "Take it along", "About")
"""Headings of `trimformer --help`, in order; `HELP_PLACE` of a command's file is one of them and a place below it."""


ROWS, SMALL, WHERE, WRITES = "Rows", "How small", "Where it runs", "What it writes"
"""Headings of a command's `--help` for options that several have; its own stand above them."""


def option_of(parameter: Parameter, **options: Any) -> Any:
    """Make an option with the text and the check that the parameter has everywhere; `options` are those of typer."""
    return typer.Option(help=parameter.text, callback=parameter.check, **options)


def number_or_word(text: Any) -> Any:
    """Read a whole number; what is none stays as it is, to be checked.

    >>> number_or_word("20000"), number_or_word("auto")
    (20000, 'auto')
    """
    try:
        return int(text)
    except ValueError:
        return text


def typed_share(text: str) -> Any:
    """Read a share as `share` does; typer says which option has a wrong one."""
    try:
        return share(text)
    except InvalidOption as error:
        raise typer.BadParameter(str(error)) from error


def _trust(context: typer.Context, trusts: bool) -> bool:  # noqa: FBT001  # typer calls it so
    """Let code in a checkpoint run until the command ends."""
    if trusts:
        from trimformer.model.soundness import trusting  # noqa: PLC0415  # late imports keep --help fast

        context.with_resource(trusting(trusts=True))
    return trusts


TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python files that lie in the model's folder.",
        callback=_trust,
        rich_help_panel=WHERE,
    ),
]
ModelArgument = Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")]
AUTO = "auto"
TaskOption = Annotated[
    str,
    typer.Option(
        help="What to calibrate and judge on, see `trimformer list`; auto: by the model's head.", rich_help_panel=ROWS
    ),
]
TaughtOption = Annotated[
    str,
    typer.Option(
        help="What to train and judge on, see `trimformer list`; auto: by the model's head, or the rows.",
        rich_help_panel=ROWS,
    ),
]
NewHeadOption = Annotated[
    bool,
    typer.Option(
        "--new-head", help="Replace the model's head by one for the classes of the rows.", rich_help_panel=ROWS
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(help="Folder with train and validation files, or one file; else the hub.", rich_help_panel=ROWS),
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Name of a column in the rows, such as text='Review Text' or label=Stars; repeatable.",
        rich_help_panel=ROWS,
    ),
]
LengthOption = Annotated[int | None, option_of(MAX_LENGTH, rich_help_panel=ROWS)]
EvaluationRowsOption = Annotated[int | None, option_of(EVALUATION_ROWS, rich_help_panel=ROWS)]
SeedOption = Annotated[int, option_of(SEED, rich_help_panel=ROWS)]
FlopsOption = Annotated[
    float | None,
    typer.Option(
        parser=typed_share, metavar="<share>", help="Share of FLOPs to keep, in (0, 1].", rich_help_panel=SMALL
    ),
]
ParamsOption = Annotated[
    float | None,
    typer.Option(
        parser=typed_share,
        metavar="<share>",
        help="Share of sublayer parameters to keep, in (0, 1].",
        rich_help_panel=SMALL,
    ),
]
LatencyOption = Annotated[
    float | None,
    typer.Option(
        parser=typed_share,
        metavar="<share>",
        help="Share of the measured time to keep, in (0, 1].",
        rich_help_panel=SMALL,
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        help="Size of the file of the weights, such as 45MB, or the share of it to keep.", rich_help_panel=SMALL
    ),
]
RoundOption = Annotated[int | None, option_of(ROUND_TO, rich_help_panel=SMALL)]
UniformOption = Annotated[
    bool,
    typer.Option("--uniform", help="The same sizes in every layer: loads without trimformer.", rich_help_panel=SMALL),
]
HeadsOption = Annotated[
    str | None,
    typer.Option(
        help="Heads that every layer keeps (key/value heads), a range, of a width as 8x20, or a list.",
        rich_help_panel=SMALL,
    ),
]
QueryHeadsOption = Annotated[
    str | None,
    typer.Option(
        help="Query heads that every layer keeps while key/value heads stay: a multiple of these.",
        rich_help_panel=SMALL,
    ),
]
NeuronsOption = Annotated[
    str | None, typer.Option(help="Neurons that every layer keeps, a range, or a list.", rich_help_panel=SMALL)
]
SitesOption = Annotated[
    Path | None,
    typer.Option(
        "--sizes", "--sites", help="JSON file of sizes by layer or sublayer, such as a plan.", rich_help_panel=SMALL
    ),
]
KeepLayersOption = Annotated[
    str | None, typer.Option(help="Layers that stay as they are, such as 0-3,30-31.", rich_help_panel=SMALL)
]
DropBlocksOption = Annotated[
    str | None,
    typer.Option(help="How many blocks lose all units, chosen by cost; or which: 3,5 or 5-5.", rich_help_panel=SMALL),
]
DropSublayersOption = Annotated[
    str | None,
    typer.Option(help="How many sublayers lose all units; or which: 3.attention,5.ffn.", rich_help_panel=SMALL),
]
OnlyOption = Annotated[str | None, typer.Option(help="Units that may go: heads or neurons.", rich_help_panel=SMALL)]
VocabularyOption = Annotated[
    str | None,
    typer.Option(
        help="Keep only the tokens of the texts in this file, or of the rows to calibrate on: calibration.",
        rich_help_panel=SMALL,
    ),
]
CountedLengthOption = Annotated[float | None, option_of(SEQUENCE_LENGTH, rich_help_panel=SMALL)]
BatchOption = Annotated[int | None, option_of(BATCH_SIZE, rich_help_panel=SMALL)]
MetricOption = Annotated[
    str | None,
    typer.Option(
        help="With --max-drop: lost in what, a metric of the task, agreement or kl; else its first.",
        rich_help_panel=SMALL,
    ),
]
CostOption = Annotated[
    str | None,
    typer.Option(
        help="With --max-drop, what is made small: flops, params, latency or size; else flops.", rich_help_panel=SMALL
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print facts as JSON on stdout, everything else on stderr.", rich_help_panel=WRITES),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output folder if it exists.", rich_help_panel=WRITES)
]
ReportOption = Annotated[
    Path | None, typer.Option(help="Write a report too: one HTML page with everything in it.", rich_help_panel=WRITES)
]
PushOption = Annotated[
    str | None, typer.Option(help="Upload the checkpoint to this repository of the hub.", rich_help_panel=WRITES)
]
MethodOption = Annotated[str, option_of(METHOD)]
TokensOption = Annotated[
    Any,
    option_of(
        CALIBRATION_TOKENS, parser=number_or_word, metavar=f"INTEGER|{CALIBRATION_TOKENS.default}", rich_help_panel=ROWS
    ),
]
MinutesOption = Annotated[float, option_of(MINUTES, rich_help_panel=ROWS)]
DeviceOption = Annotated[str, option_of(DEVICE, rich_help_panel=WHERE)]
DtypeOption = Annotated[str, option_of(DTYPE, rich_help_panel=WHERE)]
DeviceMapOption = Annotated[str | None, option_of(DEVICE_MAP, rich_help_panel=WHERE)]
MaxMemoryOption = Annotated[str | None, option_of(MAX_MEMORY, rich_help_panel=WHERE)]
CacheOption = Annotated[
    Path | None, typer.Option(help="Folder where measurements are kept for later runs.", rich_help_panel=WHERE)
]
TrainOption = Annotated[
    list[str] | None,
    typer.Option(
        "--train",
        help="rows, patience, or an argument of transformers' Trainer, name=value; repeatable.",
        rich_help_panel=ROWS,
    ),
]
DenseTooOption = Annotated[
    bool, typer.Option("--dense-too", help="Fine-tune the dense model as well, in place of timing some of its steps.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with this command's interrupted run.", rich_help_panel=WRITES)
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Option of the method, name=value; repeatable.")]


def assignments(texts: Sequence[str] | None, option: str = "--set", example: str = "ridge=1e-3") -> dict[str, str]:
    """Read the values of `--set name=value`, or of another such option, by name.

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


def columns_named(texts: Sequence[str] | None) -> dict[str, str]:
    """Read the values of `--column name=column` by name.

    Raises:
        InvalidOption: one of them is no assignment, or a name is given twice.
    """
    found = assignments(texts, "--column", "text='Review Text'")
    names = [text.partition("=")[0] for text in texts or ()]
    for name in names:
        if names.count(name) > 1 or not found[name]:
            raise InvalidOption(f"--column {name} must be given once, and name a column: {name}='Review Text'")
    return found
