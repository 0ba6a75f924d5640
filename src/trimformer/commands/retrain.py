"""`trimformer retrain`: methods that train, DynaBERT and EBERT, for one size or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimformer.cli.options import (
    AUTO,
    ColumnOption,
    CountedLengthOption,
    DataOption,
    DeviceOption,
    EvaluationRowsOption,
    JsonOption,
    LengthOption,
    ModelArgument,
    OverwriteOption,
    ReportOption,
    ResumeOption,
    SeedOption,
    SetOption,
    TaughtOption,
    TrainOption,
    TrustOption,
    assignments,
    columns_named,
)
from trimformer.errors import InvalidOption
from trimformer.model.parameters import DEVICE
from trimformer.pruning.parameters import SEED

HELP_PLACE = ("Make it smaller", 7)


def retrain_command(
    context: typer.Context,
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, or for one of each size.")],
    method: Annotated[str, typer.Option(help="What trains: dynabert, ebert, p_pruning or polish.")] = "dynabert",
    task: TaughtOption = AUTO,
    flops: Annotated[str | None, typer.Option(help="Shares of FLOPs to keep, such as 0.6,0.4.")] = None,
    params: Annotated[str | None, typer.Option(help="Shares of sublayer parameters to keep.")] = None,
    data: DataOption = None,
    column: ColumnOption = None,
    set_: SetOption = None,
    train: TrainOption = None,
    sequence_length: CountedLengthOption = None,
    max_length: LengthOption = None,
    evaluation_rows: EvaluationRowsOption = None,
    seed: SeedOption = SEED.default,
    device: DeviceOption = DEVICE.default,
    report: ReportOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Make a model smaller by a method that trains it: better at small sizes perhaps, and far more work."""
    from trimformer import plugins
    from trimformer.cli import console, finetune_run, retrain_run, steps, unfinished, wanted
    from trimformer.model.manifest import plain
    from trimformer.report import frontier, terminal
    from trimformer.report.page import sweep_page

    budgets = wanted.budgets({"flops": flops, "params": params})
    if not budgets:
        raise InvalidOption("say how small: `flops=0.6`, or several shares, `flops=0.6,0.4`; or `params`")
    columns = columns_named(column)
    choose = steps.task_to_train if plugins.load("recipes", method).needs_labels else steps.task_to_judge
    run = retrain_run.Run(
        out=out,
        model=model,
        task=choose(task, model, data, columns),
        data=data,
        method=method,
        options=assignments(set_),
        budgets=tuple(budgets),
        training=finetune_run.tuning(["patience=0", *(train or [])]),
        sequence_length=sequence_length,
        max_length=max_length,
        evaluation_rows=evaluation_rows,
        seed=seed,
        device=device,
        columns=columns,
        command=context.obj,
    )
    steps.claim(context, out, report)
    replaces = overwrite or unfinished.goes_on(out, resume=resume)
    retrain_run.check(run, overwrite=replaces)
    steps.check_asked(report, overwrite=overwrite)
    if len(budgets) > 1:
        frontier.check_no_sweep(out, overwrite=replaces)
    results = retrain_run.carry_out(run, resume=resume, overwrite=replaces)
    facts = [result.facts for result in results]
    if report is not None:
        steps.write_report(sweep_page(facts), report)
    if len(results) == 1:
        steps.report_pruned(results[0], out, as_json=as_json)
        return
    console.warn([warning for each in facts for warning in each.pruning.warnings])
    if as_json:
        steps.print_json(plain(facts))
        return
    console.out_console.print(terminal.sweep_table(facts))
    console.written("checkpoints", out / "…", f"plot: {out / frontier.PLOT}")


PROVIDES = {"retrain": retrain_command}
