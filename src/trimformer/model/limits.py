"""Limits of what a model can read: how many tokens a row may have, which ids, and how padding is told."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from inspect import signature
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.batches import length_sorted_indices, only, pad, shape, token_mask
from trimformer.data.rows import LABELS, TOKENS, Batch, Features
from trimformer.errors import DataError
from trimformer.model.structure import find_architecture

TYPES = "token_type_ids"


def check_padding(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Refuse batches in which a decoder that classifies rows would not find their last tokens.

    Raises:
        DataError: the model has no padding id, or the rows are padded with another.
    """
    architecture = find_architecture(model.config)
    by_last_token = hasattr(model, "score") or (architecture is not None and architecture.causal)
    if not (type(model).__name__.endswith("ForSequenceClassification") and by_last_token):
        return
    own = model.config.pad_token_id
    for batch in batches:
        padding = batch[TOKENS][~token_mask(batch)]
        unknown = len(batch[TOKENS]) > 1 if own is None else bool((padding != own).any())
        if unknown:
            given = int(padding[0]) if padding.numel() else None
            raise DataError(
                f"the model tells a row's last token by model.config.pad_token_id, which is {own}, and rows are padded "
                f"with {given}: set it and the tokenizer's pad_token to the same token, one that no row ends with"
            )


def inputs_of(model: PreTrainedModel) -> list[str]:
    """List the names of what a model's forward pass takes; labels are left out."""
    return [name for name in signature(type(model).forward).parameters if name not in LABELS]


def own_inputs(batches: Sequence[Batch], model: PreTrainedModel) -> list[Batch]:
    """Leave out of every batch what a model does not read.

    Raises:
        DataError: nothing is left of one.
    """
    names = inputs_of(model)
    found = only(batches, names)
    for batch, left in zip(batches, found, strict=True):
        if not left:
            raise DataError(
                f"a batch has {', '.join(batch)}, which {type(model).__name__} does not read: name its columns as the "
                f"model's forward does, {', '.join(names[1:])}"
            )
    return found


def most_tokens(config: Any) -> float:
    """Give the most tokens that a row may have; infinity where the config names no limit."""
    positions: float = getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", math.inf))
    architecture = find_architecture(config)
    after_padding = architecture is not None and architecture.positions_after_padding
    return positions - (config.pad_token_id or 0) - 1 if after_padding else positions


def fitted(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Give the tokenizer or, where it allows longer rows than the model reads, a copy that does not."""
    longest = most_tokens(model.config)
    if tokenizer.model_max_length <= longest:
        return tokenizer
    fitting = copy.copy(tokenizer)
    fitting.model_max_length = int(longest)
    return fitting


def check_inputs(batches: Sequence[Batch], config: Any) -> None:
    """Refuse rows that the model cannot read.

    Raises:
        DataError: a token id outside the vocabulary, a token type that the model does not have, or a row longer than
            its positions.
    """
    largest = max((int(batch[TOKENS].max()) for batch in batches if TOKENS in batch), default=0)
    smallest = min((int(batch[TOKENS].min()) for batch in batches if TOKENS in batch), default=0)
    longest = max(shape(batch)[1] for batch in batches)
    if smallest < 0:
        raise DataError(f"token id {smallest} is no token: give numbers from 0 up; -100 is for labels only")
    if largest >= getattr(config, "vocab_size", math.inf):
        raise DataError(
            f"token id {largest} is outside the vocabulary of {config.vocab_size}: use the model's own tokenizer"
        )
    types = getattr(config, "type_vocab_size", None) or math.inf
    most = max((int(batch[TYPES].max()) for batch in batches if TYPES in batch), default=0)
    if most >= types:
        raise DataError(f"token type {most} is none of the model's {types}: leave out {TYPES}")
    if longest > most_tokens(config):
        raise DataError(
            f"a row has {longest} tokens, the model reads at most {most_tokens(config)}: truncate, or give `max_length`"
        )


def check_rows(rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase | None, config: Any) -> None:
    """Refuse encoded rows that the model cannot read as they are padded, before it reads any of them.

    Raises:
        DataError: as `check_inputs`; the tokenizer's padding id counts where rows are padded.
    """
    for indices in length_sorted_indices(rows):
        check_inputs([pad([rows[index] for index in indices], tokenizer, "cpu")], config)
