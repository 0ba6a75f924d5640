"""Whatever the user has -> padded batches of model inputs; labels are left out unless they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trimformer.data.batches import make_batches, sample_rows
from trimformer.data.encoding import encode_texts
from trimformer.data.labels import require_labels
from trimformer.data.rows import LABELS, MODEL_INPUTS, TOKEN_MASK, TOKENS, Batch, Features, choices
from trimformer.errors import DataError, LabelError

Data: TypeAlias = Sequence[str] | Sequence[Features] | Dataset | Iterable[Batch]


def calibration_batches(
    data: Data,
    tokenizer: PreTrainedTokenizerBase | None,
    tokens: int | None,
    seed: int,
    device: torch.device,
    *,
    labels: bool = False,
) -> list[Batch]:
    """Turn whatever the user has into padded batches on the model's device, with `LABELS` only if `labels` is set.

    Texts and encoded rows are drawn until they hold `tokens` tokens, or all taken if that is None; batches are taken as
    they come.

    Raises:
        DataError: no rows, rows that are neither text nor encoded, or too few of them.
        LabelError: labels were asked for, and a row has none.
    """
    if isinstance(data, str):
        raise DataError(f"data is one string, {data!r:.60}: give a list of texts; files are read by the command line")
    rows = list(_rows(data, labels=labels))
    if not rows:
        raise DataError("no calibration rows: the data is empty; give at least one row")
    if _is_batch(rows[0]):
        return [_given_batch(batch, device, labels=labels) for batch in rows]
    if isinstance(rows[0], str):
        rows = _encoded(rows, tokenizer)
    if not isinstance(rows[0], Mapping) or TOKENS not in rows[0]:
        raise DataError(
            f"calibration rows must be text or have {TOKENS}, got {type(rows[0]).__name__}: {rows[0]!r:.80}"
        )
    real = [_without_padding(_named(row)) for row in rows]
    if labels:
        require_labels(real)
    drawn = real if tokens is None else sample_rows(real, tokens, seed)
    return make_batches(drawn, tokenizer, device, labels=labels)


def _is_batch(row: Any) -> bool:
    """Tell whether an entry is a padded batch: tensors whose first axis is the rows'."""
    if not isinstance(row, Mapping):
        return False
    inputs = row.get(TOKENS, next((values for name, values in row.items() if name not in LABELS), None))
    return isinstance(inputs, torch.Tensor) and inputs.ndim > 1


def _rows(data: Data, *, labels: bool) -> Iterable[Any]:
    if isinstance(data, Dataset) and TOKENS not in data.column_names:
        if "text" not in data.column_names:
            raise DataError(
                f"a Dataset needs a text or an {TOKENS} column, this one has: {', '.join(data.column_names)}"
            )
        if labels:
            raise LabelError(f"a text column comes without labels: encode the rows, with {TOKENS} and labels")
        return list(data["text"])
    return data


def _encoded(rows: list[str], tokenizer: PreTrainedTokenizerBase | None) -> list[Features]:
    if tokenizer is None:
        raise DataError("data given as text needs a tokenizer: prune(…, tokenizer=tokenizer)")
    return encode_texts([rows], tokenizer)


def _named(row: Features) -> Features:
    """Call a row's `label`, as a Dataset has it, `labels`, as models do."""
    return {**row, LABELS[0]: row["label"]} if "label" in row and LABELS[0] not in row else row


def _given_batch(batch: Mapping[str, Any], device: torch.device, *, labels: bool) -> Batch:
    given = _named(batch)
    tensors = {name: values for name, values in given.items() if isinstance(values, torch.Tensor)}
    inputs = {name: values.to(device) for name, values in tensors.items() if labels or name not in LABELS}
    if labels and not set(LABELS) & set(inputs):
        raise LabelError(f"a batch is unlabelled: give every batch {LABELS[0]}, or {' and '.join(LABELS[1:])}")
    if TOKENS in inputs:
        inputs.setdefault(TOKEN_MASK, torch.ones_like(inputs[TOKENS]))
        if inputs[TOKEN_MASK].shape != inputs[TOKENS].shape:
            shapes = " and ".join(f"{name} {tuple(inputs[name].shape)}" for name in (TOKENS, TOKEN_MASK))
            raise DataError(f"a batch has {shapes}: give one number a token in both")
    if TOKEN_MASK in inputs and not bool(inputs[TOKEN_MASK].flatten(1).any(1).all()):
        raise DataError("a calibration row is all padding: leave it out")
    return inputs


def _without_padding(row: Features) -> Features:
    if len(choices(row)) > 1:
        return _choices_without_padding(row)
    mask = row.get(TOKEN_MASK)
    if mask is not None and len(mask) != len(row[TOKENS]):
        raise DataError(f"a row has {len(row[TOKENS])} {TOKENS}, but {len(mask)} in {TOKEN_MASK}: give as many")
    if not len(row[TOKENS]) or (mask is not None and not any(mask)):
        raise DataError("a calibration row has no tokens, or is all padding: leave it out")
    if mask is None or all(mask):
        return row
    by_token = {name: row[name] for name in MODEL_INPUTS if name in row}
    labels = {name: row[name] for name in LABELS if name in row}
    by_token |= {
        name: values for name, values in labels.items() if isinstance(values, list) and len(values) == len(mask)
    }
    real = {n: [value for value, real in zip(values, mask, strict=True) if real] for n, values in by_token.items()}
    return labels | real


def _choices_without_padding(row: Features) -> Features:
    """Take the padding out of every choice of a row; what it has beside its inputs stays."""
    names = [name for name in MODEL_INPUTS if name in row]
    every = [
        _without_padding(dict(zip(names, values, strict=True)))
        for values in zip(*(choices(row, name) for name in names), strict=True)
    ]
    return dict(row) | {name: [choice[name] for choice in every] for name in names}
