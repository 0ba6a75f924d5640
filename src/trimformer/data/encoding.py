"""Texts -> encoded rows: tokenized, truncated, not padded."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from trimformer.data.rows import MODEL_INPUTS, Features
from trimformer.errors import DataError, InvalidOption

DEFAULT_MAX_LENGTH = 128


SHORTEST_MAX_LENGTH = 8


def length_limit(tokenizer: PreTrainedTokenizerBase, max_length: int | None, default: int = DEFAULT_MAX_LENGTH) -> int:
    """Give the number of tokens that rows are truncated to: `max_length`, or the default if the tokenizer allows it.

    Raises:
        InvalidOption: `max_length` is outside 8 to the tokenizer's `model_max_length`, see `limits.fitted`.
    """
    allowed = int(tokenizer.model_max_length)
    if max_length is None:
        return min(default, allowed)
    if not SHORTEST_MAX_LENGTH <= max_length <= allowed:
        raise InvalidOption(
            f"`max_length={max_length}` is outside {SHORTEST_MAX_LENGTH} to {allowed}, "
            "the most that model and tokenizer read"
        )
    return max_length


def encode_texts(
    columns: Sequence[list[str]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    names: Sequence[str] | None = None,
) -> list[Features]:
    """Encode one or two columns of texts as rows, truncated to `length_limit`, not padded; of no texts, no rows.

    Raises:
        DataError: a text without a single token; says which, by the names of the rows, or else by its number from 1.
    """
    if not columns[0]:
        return []
    encoded = tokenizer(*columns, truncation=True, max_length=length_limit(tokenizer, max_length))
    present = [name for name in MODEL_INPUTS if name in encoded]
    rows = zip(*(encoded[name] for name in present), strict=True)
    features: list[Features] = [dict(zip(present, values, strict=True)) for values in rows]
    for place, feature in enumerate(features):
        if not feature["input_ids"]:
            where = names[place] if names else f"row {place + 1}"
            raise DataError(f"{where} has no tokens: its text is empty; remove the row")
    return features
