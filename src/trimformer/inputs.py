"""Whatever the user has -> padded batches of model inputs, without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trimformer.batching import make_batches, sample_rows
from trimformer.data import encode_texts
from trimformer.errors import DataError
from trimformer.interfaces import MODEL_INPUTS, Batch, Features

Data: TypeAlias = Sequence[str] | Sequence[Features] | Dataset | Iterable[Batch]


def calibration_batches(
    data: Data, tokenizer: PreTrainedTokenizerBase | None, tokens: int | None, seed: int, device: torch.device
) -> list[Batch]:
    """Whatever the user has -> padded batches on the model's device, without labels."""
    if isinstance(data, str):
        raise DataError(f"data is one string, {data!r:.60}: give a list of texts; files are read by the command line")
    rows = list(_rows(data))
    if not rows:
        raise DataError("no calibration rows: the data is empty; give at least one row")
    if (
        isinstance(rows[0], Mapping)
        and isinstance(rows[0].get("input_ids"), torch.Tensor)
        and rows[0]["input_ids"].ndim == 2
    ):
        return [_model_inputs(batch, device) for batch in rows]
    if isinstance(rows[0], str):
        if tokenizer is None:
            raise DataError("data given as text needs a tokenizer: prune(…, tokenizer=tokenizer)")
        rows = list(encode_texts([rows], tokenizer))
    if not isinstance(rows[0], Mapping) or "input_ids" not in rows[0]:
        raise DataError(
            f"calibration rows must be text or have input_ids, got {type(rows[0]).__name__}: {rows[0]!r:.80}"
        )
    real = [_without_padding(row) for row in rows]
    return make_batches(real if tokens is None else sample_rows(real, tokens, seed), tokenizer, device)


def _rows(data: Data) -> Iterable[Any]:
    if isinstance(data, Dataset) and "input_ids" not in data.column_names:
        if "text" not in data.column_names:
            raise DataError(
                f"a Dataset needs a text or an input_ids column, this one has: {', '.join(data.column_names)}"
            )
        return list(data["text"])
    return data


def _model_inputs(batch: Mapping[str, Any], device: torch.device) -> Batch:
    inputs = {name: batch[name].to(device) for name in MODEL_INPUTS if name in batch}
    inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
    if not bool(inputs["attention_mask"].any(1).all()):
        raise DataError("a calibration row is all padding: leave it out")
    return inputs


def _without_padding(row: Features) -> Features:
    mask = row.get("attention_mask")
    if mask is None or all(mask):
        return row
    columns = {name: row[name] for name in MODEL_INPUTS if name in row}
    return {name: [value for value, real in zip(values, mask, strict=True) if real] for name, values in columns.items()}


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
    positions = getattr(config, "max_position_embeddings", longest)
    if longest > positions:
        raise DataError(
            f"a row has {longest} tokens, the model reads at most {positions}: truncate, or use --max-length"
        )
