"""`trimformer sweep`: one calibration, several sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    EvaluationRowsOption,
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
    ResumeOption,
    RoundOption,
    SeedOption,
    SetOption,
    SitesOption,
    TaskOption,
    TokensOption,
    TrustOption,
    assignments,
    columns_named,
)
from trimformer.model.parameters import DEVICE, DTYPE
from trimformer.pruning.parameters import CALIBRATION_TOKENS, METHOD, MINUTES, SEED

if TYPE_CHECKING:
    from trimformer.judging.manifest import Manifest

HELP_PLACE = ("Make it smaller", 3)
MANY_PROCESSES = True
DEFAULT_SHARES = "0.8,0.6,0.4,0.2"


def sweep_command(
    context: typer.Context,
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder for a checkpoint per budget, the figures and the plot.")],
    task: TaskOption = AUTO,
    flops: Annotated[
        str | None, typer.Option(help="Shares of FLOPs to keep, such as 0.8,0.6; 0.8,0.6,0.4,0.2 where none are named.")
    ] = None,
    params: Annotated[str | None, typer.Option(help="Shares of sublayer parameters to keep.")] = None,
    latency: Annotated[str | None, typer.Option(help="Shares of the measured time to keep.")] = None,
    size: Annotated[str | None, typer.Option(help="Sizes of the file of the weights, such as 60MB,45MB.")] = None,
    data: DataOption = None,
    column: ColumnOption = None,
    method: MethodOption = METHOD.default,
    calibration_tokens: TokensOption = CALIBRATION_TOKENS.default,
    minutes: MinutesOption = MINUTES.default,
    sequence_length: CountedLengthOption = None,
    batch_size: BatchOption = None,
    round_to: RoundOption = None,
    heads: HeadsOption = None,
    query_heads: QueryHeadsOption = None,
    neurons: NeuronsOption = None,
    sites: SitesOption = None,
    keep_layers: KeepLayersOption = None,
    drop_blocks: DropBlocksOption = None,
    drop_sublayers: DropSublayersOption = None,
    only: OnlyOption = None,
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
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """One calibration, several sizes: a checkpoint each, a table, and a plot of the metric against what is kept."""
    from trimformer.cli import console, steps, unfinished, wanted
    from trimformer.judging.manifest import Manifest, Origin
    from trimformer.model.checkpoint import check_writable
    from trimformer.model.manifest import read_manifest
    from trimformer.model.placement import Placement
    from trimformer.pruning.method_options import make_method
    from trimformer.report import frontier

    texts = {"flops": flops, "params": params, "latency": latency, "size": size}
    asked = wanted.budgets(texts if any(texts.values()) else {"flops": DEFAULT_SHARES}, round_to)
    sizes = wanted.asked_sizes((heads, query_heads, neurons), sites, keep_layers, (drop_blocks, drop_sublayers), only)
    placement = Placement(device=device, dtype=dtype, device_map=device_map, max_memory=max_memory)
    made = make_method(method, options := assignments(set_))
    targets = [out / f"{budget.cost}-{budget.asked}" for budget in asked]
    going_on = unfinished.goes_on(out, resume=resume)
    for target in targets:
        check_writable(target, overwrite=overwrite or going_on)
    frontier.check_no_sweep(out, overwrite=overwrite or going_on)
    steps.check_asked(report, overwrite=overwrite)
    run = unfinished.begun(context, out, *targets, report, resume=resume)
    there = [target for target in targets if run.has_written(target)]
    origin = Origin(source=model, task=task, data=data or "", columns=columns_named(column), command=context.obj)
    results: list[Manifest] = []
    with console.progress_bars(console.error_console, stages=2 + 2 * len(asked)) as progress:
        project = steps.gather(origin, placement, progress, max_length=max_length, evaluation_rows=evaluation_rows)
        wanted.check_sizes(sizes, project.model, method, made)
        pruner = project.pruner(
            method=method,
            calibration_tokens=calibration_tokens,
            minutes=minutes,
            sequence_length=sequence_length,
            batch_size=batch_size,
            seed=seed,
            options=options,
            cache=steps.kept_measurements(cache),
            journal=run.journal,
            budgets=asked,
            sizes=sizes,
        )
        for budget, target in zip(asked, targets, strict=True):
            if target in there:
                results.append(Manifest.from_json(read_manifest(target)))
                continue
            result = project.judge(pruner.prune(budget, sizes))
            steps.save_pruned(result, model, project.tokenizer, target, overwrite=overwrite or resume)
            run.note_written(target)
            results.append(result.facts)
    frontier.write_sweep(results, out)
    run.done()
    _tell(results, out, report, as_json=as_json)


def _tell(results: list[Manifest], out: Path, report: Path | None, *, as_json: bool) -> None:
    from trimformer.cli import console, steps
    from trimformer.model.manifest import plain
    from trimformer.report import frontier, terminal
    from trimformer.report.page import sweep_page

    if report is not None:
        steps.write_report(sweep_page(results), report)
    console.warn([warning for facts in results for warning in facts.pruning.warnings])
    if as_json:
        steps.print_json(plain(results))
        return
    console.out_console.print(terminal.sweep_table(results))
    console.written("checkpoints", out / "…", f"plot: {out / frontier.PLOT}")


PROVIDES = {"sweep": sweep_command}
