"""`trimformer prune`: one smaller model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimformer.cli import console, steps
from trimformer.cli import finetune_run as training_run
from trimformer.cli.console import error_console, progress_bars
from trimformer.cli.options import (
    BatchOption,
    CacheOption,
    CountedLengthOption,
    DataOption,
    DenseTooOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    FlopsOption,
    JsonOption,
    LatencyOption,
    LengthOption,
    MaxMemoryOption,
    MethodOption,
    ModelArgument,
    OverwriteOption,
    ParamsOption,
    PushOption,
    ReportOption,
    ResumeOption,
    RoundOption,
    SeedOption,
    SetOption,
    TaskOption,
    TokensOption,
    TrainOption,
    UniformOption,
    assignments,
)
from trimformer.errors import InvalidOption
from trimformer.judging.guard import smallest_within
from trimformer.judging.manifest import Origin
from trimformer.model import checkpoint
from trimformer.model.placement import Placement
from trimformer.pruning.budget import Budget
from trimformer.pruning.cache import MeasuredCache, default_folder
from trimformer.pruning.method_options import make_method
from trimformer.pruning.pruner import DEFAULT_CALIBRATION_TOKENS, DEFAULT_METHOD
from trimformer.report.page import checkpoint_page

HELP_PLACE = ("Make it smaller", 1)
MANY_PROCESSES = True
TOGETHER = (
    "--train, --dense-too and --resume belong to --then-finetune, which takes --flops, --params or --latency and goes "
    "with none of --cache, --report, --push-to-hub, --dtype and --device-map"
)


def prune_command(
    context: typer.Context,
    model: ModelArgument,
    task: TaskOption,
    out: Annotated[Path, typer.Option(help="Folder for the smaller checkpoint.")],
    data: DataOption = None,
    flops: FlopsOption = None,
    params: ParamsOption = None,
    latency: LatencyOption = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Instead: the smallest model that loses at most this.", min=0)
    ] = None,
    method: MethodOption = DEFAULT_METHOD,
    calibration_tokens: TokensOption = DEFAULT_CALIBRATION_TOKENS,
    sequence_length: CountedLengthOption = None,
    batch_size: BatchOption = None,
    round_to: RoundOption = 1,
    uniform: UniformOption = False,
    max_length: LengthOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    device_map: DeviceMapOption = None,
    max_memory: MaxMemoryOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    report: ReportOption = None,
    push_to_hub: PushOption = None,
    then_finetune: Annotated[
        bool, typer.Option("--then-finetune", help="P-pruning: prune a pre-trained model, then fine-tune it.")
    ] = False,
    train: TrainOption = None,
    dense_too: DenseTooOption = False,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a model smaller for a task, judge it before and after, and save it."""
    if sum(option is not None for option in (flops, params, latency, max_drop)) != 1:
        raise InvalidOption("say how small: exactly one of --flops 0.4, --params 0.4, --latency 0.5, --max-drop 0.01")
    if uniform and max_drop is not None:
        raise InvalidOption("--uniform goes with --flops, --params or --latency, not with --max-drop")
    shares = {"flops": flops, "params": params, "latency": latency}
    budget = Budget(**shares, round_to=round_to, uniform=uniform) if max_drop is None else None
    placement = Placement(device=device, dtype=dtype, device_map=device_map, max_memory=max_memory)
    options = assignments(set_)
    make_method(method, options)
    checkpoint.check_writable(out, overwrite=overwrite, source=model)
    steps.check_asked(report, push_to_hub, overwrite=overwrite)
    if then_finetune or train or dense_too or resume:
        others = (cache, report, push_to_hub, device_map, None if dtype == "float32" else dtype)
        if not then_finetune or budget is None or any(each is not None for each in others):
            raise InvalidOption(TOGETHER)
        run = training_run.Run(
            model=model,
            task=task,
            data=data,
            out=out,
            options=training_run.tuning(train),
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
        training_run.report(run, training_run.carry_out(run, resume=resume, overwrite=overwrite), as_json=as_json)
        return
    origin = Origin(source=model, task=task, data=data or "", command=context.obj)
    with progress_bars(error_console) as progress:
        project = steps.gather(origin, max_length, placement, progress)
        project = project if budget else project.with_guard(seed)
        pruner = project.pruner(
            method=method,
            calibration_tokens=calibration_tokens,
            sequence_length=sequence_length,
            seed=seed,
            batch_size=batch_size,
            options=options,
            cache=MeasuredCache(cache or default_folder(), say=console.say),
        )
        small = pruner.prune(budget) if budget else smallest_within(project, pruner, max_drop or 0.0, round_to=round_to)
        result = project.judge(small)
    steps.save(result, model, project.tokenizer, out, overwrite=overwrite)
    if report is not None:
        steps.write_report(checkpoint_page(result.facts, str(out)), report)
    steps.report(result, out, as_json=as_json)
    if push_to_hub is not None:
        steps.push(out, push_to_hub)


PROVIDES = {"prune": prune_command}
