"""`trimformer prune`: one smaller model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimformer.cli.options import (
    AUTO,
    SMALL,
    BatchOption,
    CacheOption,
    ColumnOption,
    CostOption,
    CountedLengthOption,
    DataOption,
    DeviceMapOption,
    DeviceOption,
    DropBlocksOption,
    DropSublayersOption,
    DtypeOption,
    EvaluationRowsOption,
    FlopsOption,
    HeadsOption,
    JsonOption,
    KeepLayersOption,
    LatencyOption,
    LengthOption,
    MaxMemoryOption,
    MethodOption,
    MetricOption,
    MinutesOption,
    ModelArgument,
    NeuronsOption,
    OnlyOption,
    OverwriteOption,
    ParamsOption,
    PushOption,
    QueryHeadsOption,
    ReportOption,
    ResumeOption,
    RoundOption,
    SeedOption,
    SetOption,
    SitesOption,
    SizeOption,
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

if TYPE_CHECKING:
    from trimformer.judging.result import TaskResult

HELP_PLACE = ("Make it smaller", 1)
MANY_PROCESSES = True


def prune_command(
    context: typer.Context,
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder for the smaller checkpoint.")],
    task: TaskOption = AUTO,
    data: DataOption = None,
    column: ColumnOption = None,
    flops: FlopsOption = None,
    params: ParamsOption = None,
    latency: LatencyOption = None,
    size: SizeOption = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Instead: the smallest model that loses at most this.", min=0, rich_help_panel=SMALL),
    ] = None,
    metric: MetricOption = None,
    cost: CostOption = None,
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
    evaluation_rows: EvaluationRowsOption = None,
    seed: SeedOption = SEED.default,
    device: DeviceOption = DEVICE.default,
    dtype: DtypeOption = DTYPE.default,
    device_map: DeviceMapOption = None,
    max_memory: MaxMemoryOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    report: ReportOption = None,
    resume: ResumeOption = False,
    push_to_hub: PushOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Make a model smaller for a task, judge it before and after, and save it."""
    from trimformer.cli import console, steps, unfinished, wanted
    from trimformer.judging.guard import smallest_within
    from trimformer.judging.manifest import Origin
    from trimformer.judging.vocabulary import with_vocabulary
    from trimformer.model.checkpoint import check_writable
    from trimformer.model.placement import Placement
    from trimformer.pruning.method_options import make_method
    from trimformer.pruning.target import COUNTED

    shares = {"flops": flops, "params": params, "latency": latency, "size": wanted.share_or_amount(size)}
    sizes = wanted.asked_sizes((heads, query_heads, neurons), sites, keep_layers, (drop_blocks, drop_sublayers), only)
    budget, sizes = wanted.target(shares, max_drop, sizes, round_to=round_to, uniform=uniform)
    wanted.check_guarded(max_drop, metric, cost)
    placement = Placement(device=device, dtype=dtype, device_map=device_map, max_memory=max_memory)
    made = make_method(method, options := assignments(set_))
    check_writable(out, overwrite=overwrite or unfinished.goes_on(out, resume=resume), source=model)
    steps.check_asked(report, push_to_hub, overwrite=overwrite)
    run = unfinished.begun(context, out, report, resume=resume)
    origin = Origin(source=model, task=task, data=data or "", columns=columns_named(column), command=context.obj)
    with console.progress_bars(console.error_console, stages=4) as progress:
        project = steps.gather(
            origin, placement, progress, max_length=max_length, evaluation_rows=evaluation_rows, metric=metric
        )
        wanted.check_sizes(sizes, project.model, method, made, alone=budget is None and max_drop is None)
        project = with_vocabulary(project if max_drop is None else project.with_guard(seed), vocabulary)
        pruner = project.pruner(
            method=method,
            calibration_tokens=calibration_tokens,
            minutes=minutes,
            sequence_length=sequence_length,
            seed=seed,
            batch_size=batch_size,
            options=options,
            cache=steps.kept_measurements(cache),
            journal=run.journal,
            budgets=[budget] if budget else [],
            sizes=sizes,
        )
        if max_drop is None:
            small = pruner.prune(budget, sizes)
        else:
            small = smallest_within(
                project, pruner, max_drop, metric=metric, cost=cost or COUNTED, round_to=round_to, sizes=sizes
            )
        result = project.judge(small)
    steps.save_pruned(result, model, project.tokenizer, out, overwrite=overwrite or resume)
    run.done()
    _tell(result, out, report, as_json=as_json)
    if push_to_hub is not None:
        steps.push(out, push_to_hub)


def _tell(result: TaskResult, out: Path, report: Path | None, *, as_json: bool) -> None:
    from trimformer.cli import steps
    from trimformer.report.page import checkpoint_page

    if report is not None:
        steps.write_report(checkpoint_page(result.facts, str(out)), report)
    steps.report_pruned(result, out, as_json=as_json)


PROVIDES = {"prune": prune_command}
