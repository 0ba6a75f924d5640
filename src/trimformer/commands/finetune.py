"""`trimformer finetune`: train a model, pruned or not, on a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimformer.cli.options import (
    ColumnOption,
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
    columns_named,
)
from trimformer.model.parameters import DEVICE
from trimformer.pruning.parameters import SEED

HELP_PLACE = ("Make it smaller", 4)


def finetune_command(
    context: typer.Context,
    model: ModelArgument,
    task: Annotated[str, typer.Option(help="What to train and judge on; see `trimformer list`.")],
    out: Annotated[Path, typer.Option(help="Folder for the fine-tuned checkpoint.")],
    data: DataOption = None,
    column: ColumnOption = None,
    train: TrainOption = None,
    dense: Annotated[str | None, typer.Option(help="Compare with fine-tuning this model.")] = None,
    dense_too: DenseTooOption = False,
    max_length: LengthOption = None,
    seed: SeedOption = SEED.default,
    device: DeviceOption = DEVICE.default,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model on labelled rows, keep the best checkpoint, and judge it on rows kept apart."""
    from trimformer import plugins
    from trimformer.cli import finetune_run
    from trimformer.model.checkpoint import check_writable

    run = finetune_run.Run(
        model=model,
        task=task,
        data=data,
        columns=columns_named(column),
        out=out,
        options=finetune_run.tuning(train),
        max_length=max_length,
        seed=seed,
        device=device,
        dense=dense,
        dense_too=dense_too,
        command=context.obj,
    )
    plugins.load("tasks", task)
    check_writable(out, overwrite=overwrite, source=model)
    tuned = finetune_run.carry_out(run, resume=resume, overwrite=overwrite)
    finetune_run.report_finetuned(run, tuned, as_json=as_json)


PROVIDES = {"finetune": finetune_command}
