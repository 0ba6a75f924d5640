"""The command line: parse, call, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import transformers
import typer
from rich.text import Text
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer import checkpoint, frontier, plugins, tables
from trimformer.cache import MeasuredCache, default_folder
from trimformer.demo import demo_model, docstring_pairs
from trimformer.errors import InvalidOption, TrimformerError
from trimformer.guard import smallest_within
from trimformer.interfaces import Budget, Progress, Task
from trimformer.pipeline import DEFAULT_CALIBRATION_TOKENS, DEFAULT_METHOD, make_method
from trimformer.project import Project, TaskResult, evaluate, plain
from trimformer.tables import error_console, out_console, progress_bars

app = typer.Typer(
    help="Make a Transformer physically smaller and measurably faster in minutes, without retraining.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
MISTAKE, INTERRUPTED = 2, 130
"""Exit codes."""
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Any wrong use of the command line; whether the class is click's or typer's own depends on typer's version."""


ModelArgument = Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")]
TaskOption = Annotated[str, typer.Option(help="What to calibrate and judge on; see `trimformer list`.")]
DataOption = Annotated[
    str | None, typer.Option(help="Folder with train and validation files, or one file; else the hub.")
]
LengthOption = Annotated[int | None, typer.Option(help="Cut rows at this many tokens; else the task's own length.")]
SeedOption = Annotated[int, typer.Option(help="Of all sampling.", min=0, max=2**32 - 1)]
FlopsOption = Annotated[float | None, typer.Option(help="Share of FLOPs to keep, in (0, 1].")]
ParamsOption = Annotated[float | None, typer.Option(help="Share of sublayer parameters to keep, in (0, 1].")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print facts as JSON on stdout, everything else on stderr.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder if it exists.")]
MethodOption = Annotated[str, typer.Option(help="Pruning method; see `trimformer list`.")]
TokensOption = Annotated[int, typer.Option(help="Calibrate on rows that hold this many tokens.", min=1)]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, or auto: a GPU if there is one.")]
CacheOption = Annotated[Path | None, typer.Option(help="Folder where measurements are kept for later runs.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Option of the method, name=value; repeatable.")]


@app.command("prune")
def prune_command(
    model: ModelArgument,
    task: TaskOption,
    out: Annotated[Path, typer.Option(help="Folder for the smaller checkpoint.")],
    data: DataOption = None,
    flops: FlopsOption = None,
    params: ParamsOption = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Instead: the smallest model that loses at most this.", min=0)
    ] = None,
    method: MethodOption = DEFAULT_METHOD,
    calibration_tokens: TokensOption = DEFAULT_CALIBRATION_TOKENS,
    sequence_length: Annotated[float | None, typer.Option(help="Count FLOPs at this length.", min=1)] = None,
    max_length: LengthOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    set_: SetOption = None,
    cache: CacheOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a model smaller for a task, judge it before and after, and save it."""
    if sum(option is not None for option in (flops, params, max_drop)) != 1:
        raise InvalidOption("say how small: exactly one of --flops 0.4, --params 0.4 and --max-drop 0.01")
    budget = Budget(flops=flops, params=params) if max_drop is None else None
    options = _options(set_)
    make_method(method, options)
    checkpoint.check_writable(out, overwrite=overwrite, source=model)
    measured = MeasuredCache(cache or default_folder(), say=tables.say)
    with progress_bars(error_console) as progress:
        project = _project(model, task, data, max_length, device, progress)
        project = project if budget else project.with_guard(seed)
        pruner = project.pruner(
            method=method, calibration_tokens=calibration_tokens, sequence_length=sequence_length, seed=seed,
            options=options, cache=measured,
        )  # fmt: skip
        pruned = pruner.prune(budget) if budget else smallest_within(project, pruner, max_drop or 0.0)
        result = project.judge(pruned)
    result.pruning.manifest |= {"source": model, "task": task, "data": data or "hub"}
    _save(result, model, project.tokenizer, out, overwrite=overwrite)
    _report(result, out, as_json=as_json)


@app.command("sweep")
def sweep_command(
    model: ModelArgument,
    task: TaskOption,
    out: Annotated[Path, typer.Option(help="Folder for a checkpoint per budget, the figures and the plot.")],
    flops: Annotated[str, typer.Option(help="Shares of FLOPs to keep, such as 0.8,0.6,0.4,0.2.")] = "0.8,0.6,0.4,0.2",
    data: DataOption = None,
    method: MethodOption = DEFAULT_METHOD,
    calibration_tokens: TokensOption = DEFAULT_CALIBRATION_TOKENS,
    max_length: LengthOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    set_: SetOption = None,
    cache: CacheOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """One calibration, several sizes: a checkpoint each, a table, and a plot of the metric against what is kept."""
    budgets = [Budget(flops=share) for share in _shares(flops)]
    options = _options(set_)
    make_method(method, options)
    targets = [out / f"flops-{budget.keep_fraction:g}" for budget in budgets]
    for target in targets:
        checkpoint.check_writable(target, overwrite=overwrite)
    frontier.check_writable(out, overwrite=overwrite)
    measured = MeasuredCache(cache or default_folder(), say=tables.say)
    results = []
    with progress_bars(error_console) as progress:
        project = _project(model, task, data, max_length, device, progress)
        pruner = project.pruner(
            method=method, calibration_tokens=calibration_tokens, seed=seed, options=options, cache=measured
        )
        for budget, target in zip(budgets, targets, strict=True):
            result = project.judge(pruner.prune(budget))
            result.pruning.manifest |= {"source": model, "task": task, "data": data or "hub"}
            _save(result, model, project.tokenizer, target, overwrite=overwrite)
            results.append(result)
    frontier.write(results, out)
    tables.warn(results)
    if as_json:
        _print_json([result.pruning.manifest for result in results])
        return
    out_console.print(tables.sweep_table(results))
    out_console.print(f"checkpoints: [bold]{out}/flops-…[/bold]   plot: [bold]{out / frontier.PLOT}[/bold]")


@app.command("evaluate")
def evaluate_command(
    model: ModelArgument,
    task: TaskOption,
    data: DataOption = None,
    dense: Annotated[str | None, typer.Option(help="Compare with this model, where the task can.")] = None,
    max_length: LengthOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Judge a model, dense or pruned, on the validation rows of a task."""
    chosen: Task = plugins.load("tasks", task)
    judged, tokenizer = _load(model, chosen, device)
    reference = checkpoint.load_model(dense, chosen.auto_class, device) if dense else None
    with progress_bars(error_console) as progress:
        metrics = evaluate(judged, tokenizer, task, data, dense=reference, max_length=max_length, progress=progress)
    if as_json:
        _print_json({"model": model, "task": task, "metrics": plain(metrics)})
    else:
        out_console.print(tables.metrics_table(metrics))


@app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """List methods, tasks, architectures and costs."""
    listed = {folder: plugins.descriptions(folder) for folder in ("methods", "tasks", "architectures", "costs")}
    if as_json:
        _print_json(listed)
    else:
        for folder, described in listed.items():
            out_console.print(tables.plugins_table(folder, described))


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the smaller checkpoint.")] = Path("demo-model"),
    flops: Annotated[float, typer.Option(help="Share of FLOPs to keep, in (0, 1].")] = 0.7,
    method: MethodOption = DEFAULT_METHOD,
    calibration_tokens: TokensOption = 40_000,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """The main job with nothing to download: a sentence encoder on the docstrings of Python's standard library."""
    budget = Budget(flops=flops)
    make_method(method, {})
    checkpoint.check_writable(out, overwrite=overwrite)
    task: Task = plugins.load("tasks", "embedding")
    name = demo_model()
    dense, tokenizer = _load(name, task, device)
    with progress_bars(error_console) as progress:
        calibration_rows, evaluation_rows = docstring_pairs(progress)
        project = Project(
            dense, tokenizer, task, calibration_rows, evaluation_rows, progress=progress,
            stored_dtype=checkpoint.stored_dtype(name),
        )  # fmt: skip
        pruner = project.pruner(method=method, calibration_tokens=calibration_tokens, seed=seed)
        result = project.judge(pruner.prune(budget))
    result.pruning.manifest |= {"source": "all-MiniLM-L6-v2", "task": "embedding", "data": "library docstrings"}
    _save(result, name, tokenizer, out, overwrite=overwrite)
    _report(result, out, as_json=as_json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2, Ctrl-C is exit code 130."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        ended = app(arguments, prog_name="trimformer", standalone_mode=False)
    except TrimformerError as error:
        _end(str(error), MISTAKE)
    except UsageError as error:
        _end(_usage(error), MISTAKE)
    except (typer.Abort, KeyboardInterrupt):
        ended = INTERRUPTED
    if ended == INTERRUPTED:  # newer versions of typer return it
        _end("interrupted", INTERRUPTED)


def _usage(error: Any) -> str:
    command = error.ctx.command_path if error.ctx else "trimformer"
    if not error.format_message():  # without any argument: the help is already printed
        raise SystemExit(MISTAKE)
    return f"{error.format_message()} Usage: {command} --help"


def _end(message: str, code: int) -> NoReturn:
    text = Text.assemble(("Error: ", "bold red"), " ".join(message.split()))
    error_console.print(text, soft_wrap=True, highlight=False)
    raise SystemExit(code)


def _load(name: str, task: Task, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return checkpoint.load_model(name, task.auto_class, device), checkpoint.load_tokenizer(name)


def _project(
    model: str, task: str, data: str | None, max_length: int | None, device: str, progress: Progress
) -> Project:
    chosen: Task = plugins.load("tasks", task)
    train, validation = chosen.rows(data, "train"), chosen.rows(data, "validation")
    dense, tokenizer = _load(model, chosen, device)
    return Project(
        dense, tokenizer, chosen, train, validation, max_length=max_length, progress=progress,
        stored_dtype=checkpoint.stored_dtype(model),
    )  # fmt: skip


def _save(result: TaskResult, source: str, tokenizer: Any, out: Path, *, overwrite: bool) -> None:
    checkpoint.save(
        result.pruning.model, out, tokenizer=tokenizer, manifest=result.pruning.manifest, overwrite=overwrite,
        dtype=checkpoint.stored_dtype(source), extra_files=checkpoint.sentence_transformers_files(source),
    )  # fmt: skip


def _report(result: TaskResult, out: Path, *, as_json: bool) -> None:
    manifest = result.pruning.manifest
    tables.warn([result])
    if as_json:
        _print_json(manifest | {"out": str(out)})
        return
    out_console.print(tables.result_table(result))
    out_console.print(tables.units_table(manifest["units"]))
    name = type(result.pruning.model).__name__
    how = f"load it: import trimformer, transformers; model = transformers.{name}.from_pretrained({str(out)!r})"
    out_console.print(Text.assemble("checkpoint: ", (str(out), "bold"), "   ", how), soft_wrap=True)


def _shares(text: str) -> list[float]:
    try:
        return sorted({float(share) for share in text.split(",")}, reverse=True)
    except ValueError:
        raise InvalidOption(f"--flops {text!r} must be shares with commas, such as 0.8,0.6,0.4") from None


def _options(assignments: Sequence[str] | None) -> dict[str, str]:
    pairs = [assignment.partition("=") for assignment in assignments or ()]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise InvalidOption(f"--set {name!r} must be name=value, such as --set ridge=1e-3")
    return {name: value for name, _, value in pairs}


def _print_json(facts: Any) -> None:
    sys.stdout.write(json.dumps(facts, indent=2) + "\n")
