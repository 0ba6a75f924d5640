"""Pruning for a task: calibrate on its training rows, judge before and after on rows kept apart, time both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer import latency, plugins
from trimformer.batching import pad
from trimformer.errors import DataError
from trimformer.interfaces import Budget, Features, Metrics, Progress, PruningResult, Task
from trimformer.pipeline import DEFAULT_CALIBRATION_TOKENS, DEFAULT_METHOD, prune

LATENCY_ROWS = 32


@dataclass(frozen=True)
class TaskResult:
    """A pruning result, judged: the manifest holds the same facts in plain form."""

    pruning: PruningResult
    before: Metrics
    after: Metrics
    latency: dict[str, latency.Latency]


def prune_for_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    calibration_rows: Dataset,
    evaluation_rows: Dataset,
    budget: Budget,
    method: str = DEFAULT_METHOD,
    calibration_tokens: int = DEFAULT_CALIBRATION_TOKENS,
    max_length: int | None = None,
    sequence_length: float | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TaskResult:
    """Prune a model for a task, and measure what was gained and lost.

    Calibration rows whose tokens equal those of an evaluation row are left out.

    Args:
        model: fine-tuned for the task; stays as it is.
        tokenizer: of the model.
        task: one of `trimformer list`.
        calibration_rows: labels are not looked at.
        evaluation_rows: what the metrics are measured on, before and after.
        budget: share of cost to keep.
        method: one of `trimformer list`.
        calibration_tokens: see `prune`.
        max_length: tokens at which rows are cut; None is the task's own.
        sequence_length: see `prune`.
        seed: see `prune`.
        options: of the method.
        progress: wraps a sequence to show a bar.

    Raises:
        TrimformerError: any of its kinds.
    """
    held_out = task.encode(evaluation_rows, tokenizer, max_length)
    features = without(task.encode(calibration_rows, tokenizer, max_length), held_out)
    before = task.evaluate(
        model, tokenizer, evaluation_rows, dense=model, max_length=max_length, progress=progress
    )  # fmt: skip
    result = prune(
        model, features, budget=budget, method=method, tokenizer=tokenizer, calibration_tokens=calibration_tokens,
        sequence_length=sequence_length, seed=seed, options=options, progress=progress,
    )  # fmt: skip
    after = task.evaluate(
        result.model, tokenizer, evaluation_rows, dense=model, max_length=max_length, progress=progress
    )  # fmt: skip
    times = compare_latency({"dense": model, "pruned": result.model}, held_out, tokenizer, progress)
    result.manifest |= {
        "metrics": {"dense": plain(before), "pruned": plain(after)},
        "latency": {name: asdict(measured) for name, measured in times.items()},
    }
    return TaskResult(result, before, after, times)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    data: str | None = None,
    *,
    dense: PreTrainedModel | None = None,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Judge a model by a task's metrics on its validation rows.

    Args:
        model: dense or pruned.
        tokenizer: of the model.
        task: one of `trimformer list`.
        data: a folder or file; None takes the task's rows from the hub.
        dense: compare with this model, where the task has a metric that does.
        max_length: tokens at which rows are cut; None is the task's own.
        progress: wraps a sequence to show a bar.
    """
    chosen: Task = plugins.load("tasks", task)
    rows = chosen.rows(data, "validation")
    return chosen.evaluate(model, tokenizer, rows, dense=dense, max_length=max_length, progress=progress)


def without(features: Sequence[Features], held_out: Sequence[Features]) -> list[Features]:
    """Features whose tokens are not among the held-out ones.

    Raises:
        DataError: none is left.
    """
    seen = {tuple(row["input_ids"]) for row in held_out}
    left = [row for row in features if tuple(row["input_ids"]) not in seen]
    if not left:
        raise DataError("no calibration rows: every row is also an evaluation row; give rows that are kept apart")
    return left


def compare_latency(
    models: Mapping[str, PreTrainedModel],
    features: Sequence[Features],
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress | None = None,
) -> dict[str, latency.Latency]:
    """Time several models on the same batch of up to 32 typical rows: those of middle length."""
    by_length = sorted(features, key=lambda row: len(row["input_ids"]))
    start = max(0, len(by_length) // 2 - LATENCY_ROWS // 2)
    device = next(iter(models.values())).device
    batch = pad(by_length[start : start + LATENCY_ROWS], tokenizer, device)
    return latency.measure(models, batch, progress=progress)


def plain(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Metrics as numbers and names, for JSON."""
    return {name: asdict(metric) for name, metric in metrics.items()}
