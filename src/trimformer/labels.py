"""Labels, for the few who ask for them: from rows to tensors, and to a loss for every sequence.

Most methods prune without labels, and are never given any. Where they are asked for, a row has `labels` (a class, a
number, or one of either per token), or `start_positions` and `end_positions` (question answering).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from trimformer import plugins
from trimformer.errors import DataError, LabelError
from trimformer.interfaces import LABELS, Batch, Features
from trimformer.objectives import Predictions

IGNORED = -100
"""The label of a token that does not count, as everywhere in transformers."""


@contextmanager
def asked_by(method: str) -> Iterator[None]:
    """Within the context, an error of missing labels says who needs them, and which methods need none."""
    try:
        yield
    except LabelError as error:
        without = [name for name, kind in plugins.provided("methods").items() if not kind.needs_labels]
        raise LabelError(f"{method} needs labels, but {error}; methods that need none: {', '.join(without)}") from error


@contextmanager
def about_labels() -> Iterator[None]:
    """Within the context, what is wrong with the data is wrong with its labels."""
    try:
        yield
    except DataError as error:
        raise LabelError(str(error)) from error


def require_labels(rows: Sequence[Features]) -> None:
    """Check that every row is labelled.

    Raises:
        LabelError: names the first row whose labels are missing, null or -1.
    """
    for number, row in enumerate(rows, start=1):
        given = [row[name] for name in LABELS if name in row]
        if not given or any(value is None or (isinstance(value, int) and value == -1) for value in given):
            raise LabelError(f"row {number} is unlabelled: give every row {LABELS[0]}, or {' and '.join(LABELS[1:])}")


def pad_labels(rows: Sequence[Features], device: torch.device | str) -> Batch:
    """Labels of some rows, parallel to their `pad`: `(batch,)`, or `(batch, length)` where tokens have labels.

    Classes and positions are int64, numbers float32; padding is -100.
    """
    columns = {name: [torch.as_tensor(row[name]) for row in rows] for name in LABELS if name in rows[0]}
    padded = {
        name: pad_sequence(values, batch_first=True, padding_value=IGNORED) if values[0].ndim else torch.stack(values)
        for name, values in columns.items()
    }
    return {
        name: values.to(device, torch.float32 if values.is_floating_point() else torch.long)
        for name, values in padded.items()
    }


def of_next_tokens(labels: Sequence[Batch]) -> list[Batch]:
    """A language model's labels, its tokens, each beside the prediction of it: one place earlier, none at the end."""
    return [
        {name: F.pad(values[:, 1:], (0, 1), value=IGNORED) for name, values in batch.items()} for batch in labels
    ]  # fmt: skip


def class_order(classes: Sequence[str], id2label: Mapping[Any, str] | None) -> list[int]:
    """Where a model has each of a task's classes, by its own names for them; as they come where it names others."""
    own = [name.lower() for _, name in sorted((id2label or {}).items())]
    return [own.index(name) for name in classes] if set(own) == set(classes) else list(range(len(classes)))


def in_model_order(features: Sequence[Features], classes: Sequence[str], config: Any) -> list[Features]:
    """Features whose class is numbered as the model numbers its classes."""
    order = class_order(classes, config.id2label)
    return [{**row, "labels": order[row["labels"]]} for row in features] if classes else list(features)


def task_loss(predicted: Predictions, labels: Batch) -> Tensor:
    """The loss that the model was trained on, per sequence: `(batch,)`, the mean over its labelled predictions.

    Cross-entropy of classes, yes-or-no answers and positions, squared distance of numbers. Padding does not enter, so
    that a row's loss is the same in every batch. Labels stand beside the prediction of them, see `of_next_tokens`.

    Raises:
        DataError: labels of another number than predictions, or outside the model's classes.
    """
    columns = [labels[name] for name in LABELS if name in labels]
    targets = columns[0] if len(columns) == 1 else torch.stack(columns, dim=1)
    expected = predicted.values.shape[:2] if predicted.family == "categorical" else predicted.values[:, 0].shape
    if targets.ndim == 1 or targets.numel() == expected.numel():
        targets = targets.reshape(len(targets), -1)
    if targets.shape != expected:
        raise DataError(f"labels of shape {tuple(targets.shape)} do not fit predictions of shape {tuple(expected)}")
    if predicted.family == "gaussian":
        return (predicted.values[:, 0] - targets.to(predicted.values)).square().mean(1)
    counted = targets != IGNORED
    classes = predicted.values.shape[-1]
    if bool((((targets < 0) & counted) | (targets >= classes)).any()):
        raise DataError(
            f"a label is outside 0 to {classes - 1}, the model's classes: check that the data fits the model"
        )
    losses = F.cross_entropy(predicted.values.transpose(1, 2), targets.long(), ignore_index=IGNORED, reduction="none")
    return losses.sum(1) / counted.sum(1).clamp(min=1)
