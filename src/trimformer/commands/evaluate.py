"""`trimformer evaluate`: judge a model by a task."""

from __future__ import annotations

from typing import Annotated

import typer

from trimformer.cli.options import (
    AUTO,
    ColumnOption,
    DataOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    EvaluationRowsOption,
    JsonOption,
    LengthOption,
    MaxMemoryOption,
    ModelArgument,
    TaskOption,
    TrustOption,
    columns_named,
)
from trimformer.model.parameters import DEVICE, DTYPE

HELP_PLACE = ("Measure", 1)
MANY_PROCESSES = True


def evaluate_command(
    model: ModelArgument,
    task: TaskOption = AUTO,
    data: DataOption = None,
    column: ColumnOption = None,
    dense: Annotated[str | None, typer.Option(help="Compare with this model, where the task can.")] = None,
    max_length: LengthOption = None,
    evaluation_rows: EvaluationRowsOption = None,
    device: DeviceOption = DEVICE.default,
    dtype: DtypeOption = DTYPE.default,
    device_map: DeviceMapOption = None,
    max_memory: MaxMemoryOption = None,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Judge a model, dense or pruned, on the validation rows of a task."""
    from trimformer import plugins
    from trimformer.cli import console, steps
    from trimformer.judging.manifest import Origin
    from trimformer.judging.project import evaluate
    from trimformer.model.checkpoint import place_model
    from trimformer.model.manifest import plain
    from trimformer.model.placement import Placement
    from trimformer.report import terminal

    columns = steps.columns_of(model, data, columns_named(column))
    known = steps.judged_on(model, None, None, columns) if data is None and task == AUTO else Origin()
    if known.task:
        task, data, columns = known.task, known.data, known.columns
        console.say(f"task and rows: {task}, {data}, as {model} was made with …")
    elif known.source and (gone := steps.rows_gone(model)):
        console.say(f"{gone} …")
    task = steps.task_to_judge(task, model, data, columns)
    chosen = plugins.load("tasks", task)
    placement = Placement(device=device, dtype=dtype, device_map=device_map, max_memory=max_memory)
    judged, tokenizer = steps.load_with_tokenizer(model, chosen, placement)
    reference = place_model(dense, chosen.auto_class, placement) if dense else None
    with console.progress_bars(console.error_console) as progress:
        metrics = evaluate(
            judged,
            tokenizer,
            task,
            data,
            columns=columns,
            dense=reference,
            max_length=max_length,
            evaluation_rows=evaluation_rows,
            progress=progress,
        )
    if as_json:
        steps.print_json({"model": model, "task": task, "metrics": plain(metrics)})
    else:
        console.out_console.print(terminal.metrics_table(metrics))


PROVIDES = {"evaluate": evaluate_command}
