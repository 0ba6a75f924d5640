"""Whatever the user has -> padded batches of model inputs; labels are left out unless they are asked for."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.batching import make_batches, rows_at_once, sample_rows
from trimformer.data import encode_texts
from trimformer.errors import DataError, LabelError, require_range
from trimformer.interfaces import LABELS, MODEL_INPUTS, Batch, Features, Workload
from trimformer.labels import require_labels

POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
"""Families whose first token has the position after the padding id's."""
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
    """Whatever the user has -> padded batches on the model's device, with `LABELS` only if `labels` is set.

    Raises:
        DataError: no rows, rows that are neither text nor encoded, or too few of them.
        LabelError: labels were asked for, and a row has none.
    """
    if isinstance(data, str):
        raise DataError(f"data is one string, {data!r:.60}: give a list of texts; files are read by the command line")
    rows = list(_rows(data, labels=labels))
    if not rows:
        raise DataError("no calibration rows: the data is empty; give at least one row")
    if (
        isinstance(rows[0], Mapping)
        and isinstance(rows[0].get("input_ids"), torch.Tensor)
        and rows[0]["input_ids"].ndim == 2
    ):
        return [_given_batch(batch, device, labels=labels) for batch in rows]
    if isinstance(rows[0], str):
        rows = _encoded(rows, tokenizer)
    if not isinstance(rows[0], Mapping) or "input_ids" not in rows[0]:
        raise DataError(
            f"calibration rows must be text or have input_ids, got {type(rows[0]).__name__}: {rows[0]!r:.80}"
        )
    real = [_without_padding(_named(row)) for row in rows]
    if labels:
        require_labels(real)
    drawn = real if tokens is None else sample_rows(real, tokens, seed)
    return make_batches(drawn, tokenizer, device, labels=labels)


def _rows(data: Data, *, labels: bool) -> Iterable[Any]:
    if isinstance(data, Dataset) and "input_ids" not in data.column_names:
        if "text" not in data.column_names:
            raise DataError(
                f"a Dataset needs a text or an input_ids column, this one has: {', '.join(data.column_names)}"
            )
        if labels:
            raise LabelError("a text column comes without labels: encode the rows, with input_ids and labels")
        return list(data["text"])
    return data


def _encoded(rows: list[str], tokenizer: PreTrainedTokenizerBase | None) -> list[Features]:
    if tokenizer is None:
        raise DataError("data given as text needs a tokenizer: prune(…, tokenizer=tokenizer)")
    return encode_texts([rows], tokenizer)


def _named(row: Features) -> Features:
    """A row whose `label`, as a Dataset calls it, is called `labels`, as models do."""
    return {**row, LABELS[0]: row["label"]} if "label" in row and LABELS[0] not in row else row


def _given_batch(batch: Mapping[str, Any], device: torch.device, *, labels: bool) -> Batch:
    given = _named(batch)
    names = [*MODEL_INPUTS, *(LABELS if labels else ())]
    inputs = {name: given[name].to(device) for name in names if name in given}
    if labels and not set(LABELS) & set(inputs):
        raise LabelError(f"a batch is unlabelled: give every batch {LABELS[0]}, or {' and '.join(LABELS[1:])}")
    inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
    if not bool(inputs["attention_mask"].any(1).all()):
        raise DataError("a calibration row is all padding: leave it out")
    return inputs


def _without_padding(row: Features) -> Features:
    mask = row.get("attention_mask")
    if mask is None or all(mask):
        return row
    by_token = {name: row[name] for name in MODEL_INPUTS if name in row}
    labels = {name: row[name] for name in LABELS if name in row}
    by_token |= {
        name: values for name, values in labels.items() if isinstance(values, list) and len(values) == len(mask)
    }
    real = {n: [value for value, real in zip(values, mask, strict=True) if real] for n, values in by_token.items()}
    return labels | real


def check_padding(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Refuse batches in which a decoder that classifies rows would not find their last tokens.

    Raises:
        DataError: the model has no padding id, or the rows are padded with another.
    """
    if not (type(model).__name__.endswith("ForSequenceClassification") and hasattr(model, "score")):
        return
    own = model.config.pad_token_id
    for batch in batches:
        padding = batch["input_ids"][batch["attention_mask"] == 0]
        unknown = len(batch["input_ids"]) > 1 if own is None else bool((padding != own).any())
        if unknown:
            given = int(padding[0]) if padding.numel() else None
            raise DataError(
                f"the model tells a row's last token by model.config.pad_token_id, which is {own}, and rows are padded "
                f"with {given}: set it and the tokenizer's pad_token to the same token, one that no row ends with"
            )


def most_tokens(config: Any) -> float:
    """How many tokens a row may have; infinity where the config names no limit."""
    positions: float = getattr(config, "max_position_embeddings", math.inf)
    return positions - (config.pad_token_id or 0) - 1 if config.model_type in POSITIONS_AFTER_PADDING else positions


def fitted(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer or, where it allows longer rows than the model reads, a copy that does not."""
    longest = most_tokens(model.config)
    if tokenizer.model_max_length <= longest:
        return tokenizer
    fitting = copy.copy(tokenizer)
    fitting.model_max_length = int(longest)
    return fitting


def workload_of(model: PreTrainedModel, length: float | None, rows: int | None, mean_length: float) -> Workload:
    """What time is measured on: what is not said is the calibration rows' mean length, and as many rows as fit.

    Raises:
        InvalidOption: longer than the model reads, or no row.
    """
    if length is not None:
        require_range("sequence_length", length, low=1, high=most_tokens(model.config))
    if rows is not None:
        require_range("batch_size", rows, low=1)
    length = length or mean_length
    return Workload(length, rows or rows_at_once(model, length))


def check_inputs(batches: Sequence[Batch], config: Any) -> None:
    """Refuse rows that the model cannot read.

    Raises:
        DataError: a token id outside the vocabulary, or a row longer than the model's positions.
    """
    largest = max(int(batch["input_ids"].max()) for batch in batches)
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    if largest >= config.vocab_size:
        raise DataError(
            f"token id {largest} is outside the vocabulary of {config.vocab_size}: use the model's own tokenizer"
        )
    if longest > most_tokens(config):
        raise DataError(
            f"a row has {longest} tokens, the model reads at most {most_tokens(config)}: truncate, or use --max-length"
        )
