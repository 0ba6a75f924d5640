"""A timing of the command line: models as their runtimes have them, on the same batches, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimformer.data.batches import Workload, random_batch
from trimformer.data.rows import CHOOSING
from trimformer.errors import InvalidOption
from trimformer.export.runtimes import MOST_COMPILED, compile_for, runners, runtimes_for, runtimes_of
from trimformer.model.checkpoint import load_config
from trimformer.model.claims import scratch_folder
from trimformer.model.limits import most_tokens
from trimformer.model.placement import find_device
from trimformer.observing.latency import measure, using_threads
from trimformer.observing.resources import device_name
from trimformer.progress import Progress

Shape = tuple[int, int]
Runner = tuple[str, str]
"""Names of a model and of the runtime that it is timed in."""


def time_models(
    models: Sequence[str],
    *,
    runtimes: str,
    shapes: str,
    runs: int,
    threads: int | None,
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """Time models in each runtime on batches of each shape, and give the facts as `--json` prints them.

    Raises:
        InvalidOption: an unknown runtime, device or shape, a model that is there twice, or more than can be compiled.
        TrimformerError: a model that cannot be loaded or run.
    """
    asked, sizes = runtimes_of(runtimes), _shapes(shapes)
    if len(set(models)) < len(models):
        raise InvalidOption("a model is given twice: give each once, the one to compare with first")
    if "compile" in asked and len(models) > MOST_COMPILED:
        raise InvalidOption(f"compile takes at most {MOST_COMPILED} models at once, not {len(models)}")
    place = find_device(device)
    for model in models:
        runtimes_for(model, asked)  # refuses an export that has none of them before anything is loaded
    configs = [load_config(model) for model in models]
    for model, config in zip(models, configs, strict=True):
        _check_lengths(model, config, sizes)
    smallest = min(configs, key=lambda config: int(config.vocab_size))
    of_choices = all((config.architectures or [""])[0].endswith(CHOOSING) for config in configs)
    with using_threads(threads), scratch_folder() as scratch:
        candidates = _candidates(models, asked, str(place), scratch, progress)
        measured = []
        for rows, length in sizes:
            batch = random_batch(smallest, Workload(length, rows), place, of_choices=of_choices)
            measured += _measure(candidates, batch, runs, progress)
        return {
            "device": str(place),
            "device_name": device_name(place),
            "threads": torch.get_num_threads(),
            "runs": runs,
            "models": models,
            "measured": measured,
        }


def _candidates(
    models: Sequence[str], runtimes: Sequence[str], device: str, scratch: Path, progress: Progress
) -> dict[Runner, nn.Module]:
    found: dict[Runner, nn.Module] = {}
    for number, name in enumerate(progress(models, "loading models")):
        own = scratch / str(number)
        own.mkdir()
        found |= {(name, runtime): model for runtime, model in runners(name, runtimes, device, own).items()}
    each = product(runtimes, models)
    return {(name, runtime): found[name, runtime] for runtime, name in each if (name, runtime) in found}


def _measure(
    candidates: dict[Runner, nn.Module], batch: dict[str, torch.Tensor], runs: int, progress: Progress
) -> list[dict[str, Any]]:
    """Time all candidates in turn on one batch; facts of each have its ratio to the first model in the same runtime."""
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
    """Read shapes, rows and tokens each, from a text such as `1x32,32x128`."""
    try:
        shapes = [tuple(int(number) for number in shape.lower().split("x")) for shape in text.split(",")]
    except ValueError:
        shapes = []
    found = [(shape[0], shape[1]) for shape in shapes if len(shape) == 2 and min(shape) > 0]
    if not found or len(found) < len(shapes):
        raise InvalidOption(f"`shapes={text}` must be rows x tokens with commas, such as 1x32,32x128")
    return found


def _check_lengths(model: str, config: Any, shapes: Sequence[Shape]) -> None:
    longest = max(length for _, length in shapes)
    if longest > most_tokens(config):
        raise InvalidOption(f"`shapes` has {longest} tokens, but {model} reads at most {most_tokens(config)}")
