"""Encoded rows -> padded batches of rows of like length, so that hardly anything is computed on padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.labels import pad_labels
from trimformer.data.rows import MODEL_INPUTS, Batch, Features
from trimformer.errors import DataError

MAX_ROWS = 32
MAX_PADDED_TOKENS = 8192
LOGITS_AT_ONCE = 2**27


def sample_rows(features: Sequence[Features], tokens: int, seed: int) -> list[Features]:
    """Rows drawn without replacement until they hold at least `tokens` tokens.

    Raises:
        DataError: there are no rows, or all of them together hold fewer tokens.
    """
    if not features:
        raise DataError("no calibration rows: the data is empty; give a file or folder with at least one row")
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: list[Features] = []
    total = 0
    for index in order:
        chosen.append(features[index])
        total += len(features[index]["input_ids"])
        if total >= tokens:
            return chosen
    raise DataError(
        f"{tokens} calibration tokens asked, but the {len(features)} calibration rows hold {total}: "
        f"ask for at most --calibration-tokens {total}, or give more rows"
    )


def length_sorted_indices(
    features: Sequence[Features], *, max_rows: int = MAX_ROWS, max_padded_tokens: int = MAX_PADDED_TOKENS
) -> list[list[int]]:
    """Row indices by batch, longest rows first, so that memory peaks in the first batch."""
    lengths = [len(row["input_ids"]) for row in features]
    order = sorted(range(len(features)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        longest = lengths[batches[-1][0]] if batches else 0
        if not batches or len(batches[-1]) >= min(max_rows, max(1, max_padded_tokens // longest)):
            batches.append([])
        batches[-1].append(index)
    return batches


def pad(rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase | None, device: torch.device | str) -> Batch:
    """Tensors of some rows, padded at the right whatever the tokenizer's own side.

    Encoders count positions from the left and classify by the first token: padding there would change what they say.
    Padding ids come from the tokenizer; without one they are zero, which the attention mask hides from the model.
    """
    fill = {"input_ids": 0 if tokenizer is None else (tokenizer.pad_token_id or 0)}
    names = [name for name in MODEL_INPUTS if name in rows[0]]
    columns = {name: [torch.as_tensor(row[name], dtype=torch.long) for row in rows] for name in names}
    columns.setdefault("attention_mask", [torch.ones_like(ids) for ids in columns["input_ids"]])
    return {
        name: pad_sequence(values, batch_first=True, padding_value=fill.get(name, 0)).to(device)
        for name, values in columns.items()
    }


def tokens_at_once(model: PreTrainedModel) -> int:
    """How many padded tokens a batch may have: fewer in language models, which give a vocabulary of logits for each."""
    if model.get_output_embeddings() is None:
        return MAX_PADDED_TOKENS
    return max(1, min(MAX_PADDED_TOKENS, LOGITS_AT_ONCE // int(model.config.vocab_size)))


def rows_at_once(model: PreTrainedModel, length: float) -> int:
    """How many rows of a length time is measured on unless said: 32, or as many as a batch may hold."""
    return max(1, min(MAX_ROWS, tokens_at_once(model) // round(length)))


def split_batches(batches: Sequence[Batch], max_padded_tokens: int) -> list[Batch]:
    """The same rows in batches of no more padded tokens than that, or of one row."""
    parts: list[Batch] = []
    for batch in batches:
        rows, length = batch["input_ids"].shape
        size = max(1, max_padded_tokens // length)
        parts += [{n: values[start : start + size] for n, values in batch.items()} for start in range(0, rows, size)]
    return parts


def make_batches(
    features: Sequence[Features],
    tokenizer: PreTrainedTokenizerBase | None,
    device: torch.device | str,
    *,
    labels: bool = False,
) -> list[Batch]:
    """Length-sorted, padded batches of all rows; with `labels`, their labels are among the tensors."""
    chosen = [[features[index] for index in indices] for indices in length_sorted_indices(features)]
    return [pad(rows, tokenizer, device) | (pad_labels(rows, device) if labels else {}) for rows in chosen]


def only(batches: Sequence[Batch], names: Sequence[str]) -> list[Batch]:
    """The same batches with no other tensors than those named."""
    return [{name: batch[name] for name in names if name in batch} for batch in batches]


def token_count(batches: Sequence[Batch]) -> int:
    """Tokens without padding."""
    return int(sum(batch["attention_mask"].sum() for batch in batches))


def random_batch(config: Any, workload: Workload, device: torch.device | str) -> Batch:
    """Random tokens without padding, to measure time on: `(batch_size, sequence_length)` each."""
    shape = (workload.batch_size, round(workload.sequence_length))
    ids = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@dataclass(frozen=True)
class Workload:
    """What a model is used on: what its cost is counted or measured for."""

    sequence_length: float
    """Mean number of tokens of a sequence."""
    batch_size: int = 32
