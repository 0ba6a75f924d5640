"""`trimformer finetune`: train a model, pruned or not, on a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimformer import plugins
from trimformer.cli import finetune_run as training_run
from trimformer.cli.finetune_run import Run
from trimformer.cli.options import (
    DataOption,
    DenseTooOption,
    DeviceOption,
    JsonOption,
    LengthOption,
    ModelArgument,
    OverwriteOption,
    ResumeOption,
    SeedOption,
    TrainOption,
)
from trimformer.model import checkpoint

HELP_PLACE = ("Make it smaller", 4)


def finetune_command(
    context: typer.Context,
    model: ModelArgument,
    task: Annotated[str, typer.Option(help="What to train and judge on; see `trimformer list`.")],
    out: Annotated[Path, typer.Option(help="Folder for the fine-tuned checkpoint.")],
    data: DataOption = None,
    train: TrainOption = None,
    dense: Annotated[str | None, typer.Option(help="Compare with fine-tuning this model.")] = None,
    dense_too: DenseTooOption = False,
    max_length: LengthOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model on labelled rows, keep the best checkpoint, and judge it on rows kept apart."""
    run = Run(
        model=model,
        task=task,
        data=data,
        out=out,
        options=training_run.tuning(train),
        max_length=max_length,
        seed=seed,
        device=device,
        dense=dense,
        dense_too=dense_too,
        command=context.obj,
    )
    plugins.load("tasks", task)
    checkpoint.check_writable(out, overwrite=overwrite, source=model)
    training_run.report(run, training_run.carry_out(run, resume=resume, overwrite=overwrite), as_json=as_json)


PROVIDES = {"finetune": finetune_command}
