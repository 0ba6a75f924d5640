"""Labels, for the few who ask for them: from rows to tensors, and to a loss for every sequence.

Most methods prune without labels, and are never given any. Where they are asked for, a row has `labels` (a class, a
number, or one of either per token), or `start_positions` and `end_positions` (question answering).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from trimformer.data.rows import LABELS, Batch, Features
from trimformer.errors import DataError, LabelError

IGNORED = -100
"""The label of a token that does not count, as everywhere in transformers."""


@contextmanager
def about_labels() -> Iterator[None]:
    """Within the context, every `DataError` becomes a `LabelError` with the same message."""
    try:
        yield
    except DataError as error:
        raise LabelError(str(error)) from error


def require_labels(rows: Sequence[Features]) -> None:
    """Refuse rows that are not all labelled.

    Raises:
        LabelError: names the first row whose labels are missing, null or -1.
    """
    for number, row in enumerate(rows, start=1):
        given = [row[name] for name in LABELS if name in row]
        if not given or any(value is None or (isinstance(value, int) and value == -1) for value in given):
            raise LabelError(f"row {number} is unlabelled: give every row {LABELS[0]}, or {' and '.join(LABELS[1:])}")


def pad_labels(rows: Sequence[Features], device: torch.device | str) -> Batch:
    """Make tensors of the labels of some rows, as `pad` orders them: `(batch,)`, or `(batch, length)` for tokens.

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


def class_order(classes: Sequence[str], id2label: Mapping[Any, str] | None) -> list[int]:
    """Find the number that a model gives each of a task's classes, by their names; as they come where it has others."""
    own = [name.lower() for _, name in sorted((id2label or {}).items())]
    return [own.index(name) for name in classes] if set(own) == set(classes) else list(range(len(classes)))


def in_model_order(features: Sequence[Features], classes: Sequence[str], config: Any) -> list[Features]:
    """Number the class of every row as the model numbers its classes; without classes, rows stay as they are."""
    order = class_order(classes, config.id2label)
    return [{**row, "labels": order[row["labels"]]} for row in features] if classes else list(features)
