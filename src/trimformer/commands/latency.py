"""`trimformer latency`: how long models take, side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from trimformer.cli import steps
from trimformer.cli.console import error_console, out_console, progress_bars
from trimformer.cli.options import DeviceOption, JsonOption
from trimformer.data.batches import Workload, random_batch
from trimformer.errors import InvalidOption
from trimformer.export.runtimes import MOST_COMPILED, compile_for, runners, runtimes_of
from trimformer.model.checkpoint import load_config
from trimformer.model.limits import most_tokens
from trimformer.model.placement import find_device
from trimformer.observing.latency import device_name, measure, using_threads
from trimformer.progress import Progress
from trimformer.report import terminal

HELP_PLACE = ("Measure", 2)
Shape = tuple[int, int]
Runner = tuple[str, str]
"""Model and runtime."""


def latency_command(
    models: Annotated[list[str], typer.Argument(help="Checkpoint folders, hub names or exported folders.")],
    runtimes: Annotated[str, typer.Option(help="With commas: eager, compile, onnx, int8.")] = "eager",
    shapes: Annotated[str, typer.Option(help="Rows x tokens of a batch, with commas.")] = "1x32,32x128",
    runs: Annotated[int, typer.Option(help="Passes of each that count.", min=1)] = 15,
    threads: Annotated[int | None, typer.Option(help="CPU threads; else PyTorch's own number.", min=1)] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Time models on the same batches, in turn: PyTorch, compiled, or ONNX Runtime."""
    asked, sizes = runtimes_of(runtimes), _shapes(shapes)
    if len(set(models)) < len(models):
        raise InvalidOption("a model is given twice: give each once, the one to compare with first")
    if "compile" in asked and len(models) > MOST_COMPILED:
        raise InvalidOption(f"compile takes at most {MOST_COMPILED} models at once, not {len(models)}")
    place = find_device(device)
    configs = [load_config(model) for model in models]
    for model, config in zip(models, configs, strict=True):
        _check_lengths(model, config, sizes)
    smallest = min(configs, key=lambda config: int(config.vocab_size))
    with using_threads(threads), tempfile.TemporaryDirectory() as scratch, progress_bars(error_console) as progress:
        candidates = _candidates(models, asked, str(place), Path(scratch), progress)
        measured = []
        for rows, length in sizes:
            batch = random_batch(smallest, Workload(length, rows), place)
            measured += _measure(candidates, batch, runs, progress)
        facts = {
            "device": str(place),
            "device_name": device_name(place),
            "threads": torch.get_num_threads(),
            "runs": runs,
            "models": models,
            "measured": measured,
        }
    if as_json:
        steps.print_json(facts)
    else:
        out_console.print(terminal.latency_table(facts))


def _candidates(
    models: Sequence[str], runtimes: Sequence[str], device: str, scratch: Path, progress: Progress
) -> dict[Runner, nn.Module]:
    found: dict[Runner, nn.Module] = {}
    for number, name in enumerate(progress(models, "loading models")):
        own = scratch / str(number)
        own.mkdir()
        found |= {(name, runtime): model for runtime, model in runners(name, runtimes, device, own).items()}
    return {(name, runtime): found[name, runtime] for runtime in runtimes for name in models}


def _measure(
    candidates: dict[Runner, nn.Module], batch: dict[str, torch.Tensor], runs: int, progress: Progress
) -> list[dict[str, Any]]:
    """All candidates in turn on one batch; facts of each, its ratio to the first model in the same runtime included."""
    compiled = [runner for runner in candidates if runner[1] == "compile"]
    if compiled:
        torch.compiler.reset()
        for runner in progress(compiled, "compiling"):
            compile_for(candidates[runner], batch, runner[0])
    names = {" ".join(runner): runner for runner in candidates}
    times = measure({name: candidates[runner] for name, runner in names.items()}, batch, runs=runs, progress=progress)
    first = {runner[1]: times[name].median_ms for name, runner in reversed(names.items())}
    return [
        {
            "model": runner[0],
            "runtime": runner[1],
            **asdict(times[name]),
            "sequences_per_second": times[name].sequences_per_second,
            "ratio": times[name].median_ms / first[runner[1]],
        }
        for name, runner in names.items()
    ]


def _shapes(text: str) -> list[Shape]:
    """Rows and tokens from `1x32,32x128`."""
    try:
        shapes = [tuple(int(number) for number in shape.lower().split("x")) for shape in text.split(",")]
    except ValueError:
        shapes = []
    found = [(shape[0], shape[1]) for shape in shapes if len(shape) == 2 and min(shape) > 0]
    if not found or len(found) < len(shapes):
        raise InvalidOption(f"--shapes {text!r} must be rows x tokens with commas, such as 1x32,32x128")
    return found


def _check_lengths(model: str, config: Any, shapes: Sequence[Shape]) -> None:
    longest = max(length for _, length in shapes)
    if longest > most_tokens(config):
        raise InvalidOption(f"--shapes has {longest} tokens, but {model} reads at most {most_tokens(config)}")


PROVIDES = {"latency": latency_command}
