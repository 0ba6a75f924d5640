"""`trimformer plan`: what budgets would remove and lose, before anything is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from trimformer.cli.options import (
    AUTO,
    BatchOption,
    CacheOption,
    ColumnOption,
    CountedLengthOption,
    DataOption,
    DeviceMapOption,
    DeviceOption,
    DropBlocksOption,
    DropSublayersOption,
    DtypeOption,
    HeadsOption,
    JsonOption,
    KeepLayersOption,
    LengthOption,
    MaxMemoryOption,
    MethodOption,
    MinutesOption,
    ModelArgument,
    NeuronsOption,
    OnlyOption,
    OverwriteOption,
    QueryHeadsOption,
    ReportOption,
    RoundOption,
    SeedOption,
    SetOption,
    SitesOption,
    TaskOption,
    TokensOption,
    TrustOption,
    UniformOption,
    VocabularyOption,
    assignments,
    columns_named,
)
from trimformer.model.parameters import DEVICE, DTYPE
from trimformer.pruning.parameters import CALIBRATION_TOKENS, METHOD, MINUTES, SEED

HELP_PLACE = ("Make it smaller", 2)


def plan_command(
    context: typer.Context,
    model: ModelArgument,
    out: Annotated[
        Path | None, typer.Option(help="Write the sizes of the one budget, to be edited and given to prune --sizes.")
    ] = None,
    task: TaskOption = AUTO,
    data: DataOption = None,
    column: ColumnOption = None,
    flops: Annotated[
        str | None, typer.Option(help="Shares of FLOPs to keep; 0.9,0.8,…,0.2 where no budget is named.")
    ] = None,
    params: Annotated[str | None, typer.Option(help="Shares of sublayer parameters to keep.")] = None,
    latency: Annotated[str | None, typer.Option(help="Shares of the measured time to keep.")] = None,
    size: Annotated[str | None, typer.Option(help="Sizes of the file of the weights, such as 60MB,45MB.")] = None,
    method: MethodOption = METHOD.default,
    calibration_tokens: TokensOption = CALIBRATION_TOKENS.default,
    minutes: MinutesOption = MINUTES.default,
    sequence_length: CountedLengthOption = None,
    batch_size: BatchOption = None,
    round_to: RoundOption = None,
    uniform: UniformOption = False,
    heads: HeadsOption = None,
    query_heads: QueryHeadsOption = None,
    neurons: NeuronsOption = None,
    sites: SitesOption = None,
    keep_layers: KeepLayersOption = None,
    drop_blocks: DropBlocksOption = None,
    drop_sublayers: DropSublayersOption = None,
    only: OnlyOption = None,
    vocabulary: VocabularyOption = None,
    max_length: LengthOption = None,
    seed: SeedOption = SEED.default,
    device: DeviceOption = DEVICE.default,
    dtype: DtypeOption = DTYPE.default,
    device_map: DeviceMapOption = None,
    max_memory: MaxMemoryOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    report: ReportOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Look before the cut: what each budget would remove, by layer, and what it is likely to lose."""
    from trimformer.cli import console, steps, wanted
    from trimformer.judging.manifest import Origin
    from trimformer.judging.vocabulary import with_vocabulary
    from trimformer.model.placement import Placement
    from trimformer.pruning.method_options import make_method
    from trimformer.pruning.plan import check_foretells, default_budgets
    from trimformer.pruning.target import COUNTED

    asked = wanted.budgets({"flops": flops, "params": params, "latency": latency, "size": size}, round_to)
    asked = [replace(budget, uniform=uniform) for budget in asked]
    sizes = wanted.asked_sizes((heads, query_heads, neurons), sites, keep_layers, (drop_blocks, drop_sublayers), only)
    placement = Placement(device=device, dtype=dtype, device_map=device_map, max_memory=max_memory)
    options = assignments(set_)
    made = make_method(method, options)
    check_foretells(method, made)
    steps.check_plan(out, asked, overwrite=overwrite)
    steps.check_asked(report, overwrite=overwrite)
    steps.claim(context, out, report)
    origin = Origin(source=model, task=task, data=data or "", columns=columns_named(column), command=context.obj)
    with console.progress_bars(console.error_console) as progress:
        project = steps.gather(origin, placement, progress, max_length=max_length)
        wanted.check_sizes(sizes, project.model, method, made)
        project = with_vocabulary(project, vocabulary, judged=False)
        pruner = project.pruner(
            method=method,
            calibration_tokens=calibration_tokens,
            minutes=minutes,
            sequence_length=sequence_length,
            batch_size=batch_size,
            seed=seed,
            options=options,
            cache=steps.kept_measurements(cache),
            judged=False,
        )
        least, _ = pruner.reachable(COUNTED, sizes, uniform=uniform)
        plan = pruner.plan(asked or default_budgets(least, round_to=round_to, uniform=uniform), sizes)
    steps.report_plan(plan, out, report, command=context.obj, as_json=as_json)


PROVIDES = {"plan": plan_command}
