"""`trimformer pprune`: P-pruning, which prunes a pre-trained model and then fine-tunes the small one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimformer.cli.options import (
    AUTO,
    BatchOption,
    ColumnOption,
    CountedLengthOption,
    DataOption,
    DenseTooOption,
    DeviceOption,
    FlopsOption,
    JsonOption,
    LatencyOption,
    LengthOption,
    MethodOption,
    NewHeadOption,
    OverwriteOption,
    ParamsOption,
    ResumeOption,
    RoundOption,
    SeedOption,
    SetOption,
    TaughtOption,
    TokensOption,
    TrainOption,
    TrustOption,
    UniformOption,
    assignments,
    columns_named,
)
from trimformer.model.parameters import DEVICE
from trimformer.pruning.parameters import CALIBRATION_TOKENS, DEFAULT_PRETRAINED_METHOD, SEED

HELP_PLACE = ("Make it smaller", 4)


def pprune_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub name; may be pre-trained only.")],
    out: Annotated[Path, typer.Option(help="Folder for the smaller, fine-tuned checkpoint.")],
    task: TaughtOption = AUTO,
    data: DataOption = None,
    column: ColumnOption = None,
    new_head: NewHeadOption = False,
    flops: FlopsOption = None,
    params: ParamsOption = None,
    latency: LatencyOption = None,
    method: MethodOption = DEFAULT_PRETRAINED_METHOD,
    calibration_tokens: TokensOption = CALIBRATION_TOKENS.default,
    sequence_length: CountedLengthOption = None,
    batch_size: BatchOption = None,
    round_to: RoundOption = None,
    uniform: UniformOption = False,
    set_: SetOption = None,
    train: TrainOption = None,
    dense_too: DenseTooOption = False,
    max_length: LengthOption = None,
    seed: SeedOption = SEED.default,
    device: DeviceOption = DEVICE.default,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """P-pruning: make a pre-trained model smaller without labels, then fine-tune it and judge it."""
    from dataclasses import asdict

    from trimformer.cli import finetune_run, steps, unfinished, wanted
    from trimformer.model.checkpoint import check_writable
    from trimformer.pruning.method_options import make_method

    shares = {"flops": flops, "params": params, "latency": latency}
    budget = wanted.one_budget(shares, round_to=round_to, uniform=uniform)
    options = assignments(set_)
    make_method(method, options)
    columns = columns_named(column)
    check_writable(out, overwrite=overwrite or unfinished.goes_on(out, resume=resume), source=model)
    steps.claim(context, out)
    run = finetune_run.Run(
        model=model,
        task=steps.task_to_train(task, model, data, columns, new_head=new_head),
        data=data,
        columns=columns,
        new_head=new_head,
        out=out,
        options=finetune_run.tuning(train),
        max_length=max_length,
        seed=seed,
        device=device,
        dense=model,
        dense_too=dense_too,
        command=context.obj,
        pruning={
            "budget": asdict(budget),
            "method": method,
            "options": options,
            "sequence_length": sequence_length,
            "calibration_tokens": calibration_tokens,
            "batch_size": batch_size,
            "seed": seed,
        },
    )
    tuned = finetune_run.carry_out(run, resume=resume, overwrite=overwrite or resume)
    finetune_run.report_finetuned(run, tuned, as_json=as_json)


PROVIDES = {"pprune": pprune_command}
