"""The nouns of rows: splits, encoded rows, padded batches, and what their columns are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

Split = Literal["train", "validation"]
TOKENS, TOKEN_MASK = "input_ids", "attention_mask"
MODEL_INPUTS = (TOKENS, TOKEN_MASK, "token_type_ids", "position_ids")
"""Columns of an encoded row that a model is given; labels never are."""
LABELS = ("labels", "start_positions", "end_positions")
"""Columns of labels, for those who ask for them: a class or number, or where an answer begins and ends."""
Features = Mapping[str, Any]
"""One encoded, unpadded row: model inputs as lists of integers, or a list of them in multiple choice, by choice;
`LABELS` only where asked for."""
Batch = dict[str, Tensor]
"""Padded tensors by name, `(batch, …)` each: model inputs, or labels. `data.batches` says which tokens are real.
In multiple choice, inputs are `(batch, choices, length)`; below its head a model reads `(batch * choices, length)`."""

CHOOSING = "ForMultipleChoice"
"""How the names of model classes end that read several choices of a row at once."""


def choices(row: Features, name: str = TOKENS) -> list[Sequence[int]]:
    """List the sequences of a column of an encoded row: one, or in multiple choice one for every choice."""
    values = row[name]
    return list(values) if len(values) and isinstance(values[0], Sequence) else [values]


def sequences(rows: Iterable[Features]) -> list[Features]:
    """Give every sequence of encoded rows, without labels, as a row of its own: in multiple choice every choice.

    >>> sequences([{"input_ids": [[5, 6], [7]]}, {"input_ids": [8]}])
    [{'input_ids': [5, 6]}, {'input_ids': [7]}, {'input_ids': [8]}]
    """
    return [
        dict(zip(row, values, strict=True))
        for row in rows
        for values in zip(*(choices(row, name) for name in row), strict=True)
    ]


def token_count(row: Features) -> int:
    """Count the tokens of an encoded row, those of all its choices; each as many as the longest has."""
    return max(map(len, choices(row))) * len(choices(row))


def content(row: Features) -> tuple[int, ...]:
    """Give the tokens of an encoded row; rows with the same tokens count as the same row."""
    return tuple(token for sequence in choices(row) for token in sequence)
