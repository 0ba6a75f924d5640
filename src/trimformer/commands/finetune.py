"""`trimformer finetune`: train a model, pruned or not, on a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimformer.cli.options import (
    AUTO,
    ColumnOption,
    DataOption,
    DenseTooOption,
    DeviceOption,
    JsonOption,
    LengthOption,
    ModelArgument,
    NewHeadOption,
    OverwriteOption,
    ResumeOption,
    SeedOption,
    TaughtOption,
    TrainOption,
    TrustOption,
    columns_named,
)
from trimformer.model.parameters import DEVICE
from trimformer.pruning.parameters import SEED

HELP_PLACE = ("Make it smaller", 6)


def finetune_command(
    context: typer.Context,
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder for the fine-tuned checkpoint.")],
    task: TaughtOption = AUTO,
    data: DataOption = None,
    column: ColumnOption = None,
    new_head: NewHeadOption = False,
    train: TrainOption = None,
    dense: Annotated[str | None, typer.Option(help="Compare with fine-tuning this model.")] = None,
    dense_too: DenseTooOption = False,
    max_length: LengthOption = None,
    seed: SeedOption = SEED.default,
    device: DeviceOption = DEVICE.default,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Fine-tune a model on labelled rows, keep the best checkpoint, and judge it on rows kept apart."""
    from trimformer.cli import finetune_run, steps, unfinished
    from trimformer.model.checkpoint import check_writable

    columns, options = steps.columns_of(model, data, columns_named(column)), finetune_run.tuning(train)
    check_writable(out, overwrite=overwrite or unfinished.goes_on(out, resume=resume), source=model)
    steps.claim(context, out)
    run = finetune_run.Run(
        model=model,
        task=steps.task_to_train(task, model, data, columns, new_head=new_head),
        data=data,
        columns=columns,
        new_head=new_head,
        out=out,
        options=options,
        max_length=max_length,
        seed=seed,
        device=device,
        dense=dense,
        dense_too=dense_too,
        command=context.obj,
    )
    tuned = finetune_run.carry_out(run, resume=resume, overwrite=overwrite or resume)
    finetune_run.report_finetuned(run, tuned, as_json=as_json)


PROVIDES = {"finetune": finetune_command}
