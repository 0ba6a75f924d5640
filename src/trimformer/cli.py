"""The command line: parse, call, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import transformers
import typer
from rich.console import Console

from trimformer import checkpoint, plugins, tables
from trimformer.demo import demo_model, docstring_pairs
from trimformer.errors import InvalidOption, TrimformerError
from trimformer.interfaces import Budget, Task
from trimformer.pipeline import DEFAULT_CALIBRATION_TOKENS, DEFAULT_METHOD
from trimformer.project import TaskResult, evaluate, plain, prune_for_task
from trimformer.tables import progress_bars

app = typer.Typer(
    help="Make a Transformer physically smaller and measurably faster in minutes, without retraining.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out_console = Console()
error_console = Console(stderr=True)

ModelArgument = Annotated[str, typer.Argument(help="Checkpoint folder or hub name.")]
TaskOption = Annotated[str, typer.Option(help="What to calibrate and judge on; see `trimformer list`.")]
DataOption = Annotated[
    str | None, typer.Option(help="Folder with train and validation files, or one file; else the hub.")
]
LengthOption = Annotated[int | None, typer.Option(help="Cut rows at this many tokens; else the task's own length.")]
SeedOption = Annotated[int, typer.Option(help="Of all sampling.")]
FlopsOption = Annotated[float | None, typer.Option(help="Share of FLOPs to keep, in (0, 1].")]
ParamsOption = Annotated[float | None, typer.Option(help="Share of sublayer parameters to keep, in (0, 1].")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print facts as JSON on stdout, everything else on stderr.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder if it exists.")]
MethodOption = Annotated[str, typer.Option(help="Pruning method; see `trimformer list`.")]
TokensOption = Annotated[int, typer.Option(help="Calibrate on rows that hold this many tokens.", min=1)]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Option of the method, name=value; repeatable.")]


@app.command("prune")
def prune_command(
    model: ModelArgument,
    task: TaskOption,
    out: Annotated[Path, typer.Option(help="Folder for the smaller checkpoint.")],
    data: DataOption = None,
    flops: FlopsOption = None,
    params: ParamsOption = None,
    method: MethodOption = DEFAULT_METHOD,
    calibration_tokens: TokensOption = DEFAULT_CALIBRATION_TOKENS,
    sequence_length: Annotated[float | None, typer.Option(help="Count FLOPs at this length.", min=1)] = None,
    max_length: LengthOption = None,
    seed: SeedOption = 0,
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a model smaller for a task, judge it before and after, and save it."""
    budget = Budget(flops=flops, params=params)
    checkpoint.check_writable(out, overwrite=overwrite)
    chosen: Task = plugins.load("tasks", task)
    dense, tokenizer = checkpoint.load_model(model, chosen.auto_class), checkpoint.load_tokenizer(model)
    with progress_bars(error_console) as progress:
        result = prune_for_task(
            dense, tokenizer, chosen,
            calibration_rows=chosen.rows(data, "train"), evaluation_rows=chosen.rows(data, "validation"),
            budget=budget, method=method, calibration_tokens=calibration_tokens, max_length=max_length,
            sequence_length=sequence_length, seed=seed, options=_options(set_), progress=progress,
        )  # fmt: skip
    result.pruning.manifest |= {"source": model, "task": task, "data": data or "hub"}
    _save_and_report(result, model, tokenizer, out, overwrite=overwrite, as_json=as_json)


@app.command("evaluate")
def evaluate_command(
    model: ModelArgument,
    task: TaskOption,
    data: DataOption = None,
    dense: Annotated[str | None, typer.Option(help="Compare with this model, where the task can.")] = None,
    max_length: LengthOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a model, dense or pruned, on the validation rows of a task."""
    chosen: Task = plugins.load("tasks", task)
    judged, tokenizer = checkpoint.load_model(model, chosen.auto_class), checkpoint.load_tokenizer(model)
    reference = checkpoint.load_model(dense, chosen.auto_class) if dense else None
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
    flops: Annotated[float, typer.Option(help="Share of FLOPs to keep, in (0, 1].")] = 0.5,
    method: MethodOption = DEFAULT_METHOD,
    calibration_tokens: TokensOption = DEFAULT_CALIBRATION_TOKENS,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """The main job with nothing to download: a sentence encoder on the docstrings of Python's standard library."""
    budget = Budget(flops=flops)
    checkpoint.check_writable(out, overwrite=overwrite)
    task: Task = plugins.load("tasks", "embedding")
    name = demo_model()
    dense, tokenizer = checkpoint.load_model(name, task.auto_class), checkpoint.load_tokenizer(name)
    with progress_bars(error_console) as progress:
        calibration_rows, evaluation_rows = docstring_pairs(progress)
        result = prune_for_task(
            dense, tokenizer, task, calibration_rows=calibration_rows, evaluation_rows=evaluation_rows, budget=budget,
            method=method, calibration_tokens=calibration_tokens, seed=seed, progress=progress,
        )  # fmt: skip
    result.pruning.manifest |= {
        "source": "all-MiniLM-L6-v2",
        "task": "embedding",
        "data": "standard library docstrings",
    }
    _save_and_report(result, name, tokenizer, out, overwrite=overwrite, as_json=as_json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with _errors_as_one_line():
        app(arguments)


def _save_and_report(
    result: TaskResult, source: str, tokenizer: Any, out: Path, *, overwrite: bool, as_json: bool
) -> None:
    manifest = result.pruning.manifest
    checkpoint.save(
        result.pruning.model, out, tokenizer=tokenizer, manifest=manifest, overwrite=overwrite,
        extra_files=checkpoint.sentence_transformers_files(source),
    )  # fmt: skip
    if as_json:
        _print_json(manifest | {"out": str(out)})
        return
    out_console.print(tables.result_table(result))
    out_console.print(tables.units_table(manifest["units"]))
    out_console.print(
        f"checkpoint: [bold]{out}[/bold]   load it with: import trimformer; AutoModel….from_pretrained({str(out)!r})"
    )


def _options(assignments: Sequence[str] | None) -> dict[str, str]:
    pairs = [assignment.partition("=") for assignment in assignments or ()]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise InvalidOption(f"--set {name!r} must be name=value, such as --set ridge=1e-3")
    return {name: value for name, _, value in pairs}


def _print_json(facts: Any) -> None:
    sys.stdout.write(json.dumps(facts, indent=2) + "\n")


@contextmanager
def _errors_as_one_line() -> Iterator[None]:
    try:
        yield
    except TrimformerError as error:
        error_console.print(f"[bold red]Error:[/bold red] {error}", soft_wrap=True, highlight=False, markup=True)
        raise SystemExit(2) from None
