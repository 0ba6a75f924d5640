"""The proof that a trimmed model is the model that it was made of, on the texts that it was trimmed for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.errors import TrimformerError
from trimformer.model.limits import inputs_of, most_tokens
from trimformer.observing.watching import frozen

ANSWERED_TEXTS = 64
ANSWERED_TOKENS = 256
ROWS_AT_ONCE = 8
ENOUGH = 1e-5
"""Largest difference of two answers, relative to the largest answer if that is above one, in float32."""


def encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Split texts into token ids, whole, with the special tokens around them."""
    if not texts:
        return []
    with_limit, tokenizer.model_max_length = tokenizer.model_max_length, int(1e30)  # else long texts are warned of
    try:
        rows: list[list[int]] = tokenizer(list(texts), return_attention_mask=False)["input_ids"]
    finally:
        tokenizer.model_max_length = with_limit
    return rows


def differing(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]], new: Mapping[int, int]) -> list[int]:
    """List the places of texts that are split into other tokens than before.

    Args:
        before: ids by the tokenizer with all tokens.
        after: ids by the trimmed one.
        new: new ids by old ones.
    """
    pairs = enumerate(zip(before, after, strict=True))
    return [place for place, (old, ids) in pairs if [new.get(index) for index in old] != list(ids)]


def largest_difference(
    models: tuple[PreTrainedModel, PreTrainedModel],
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    rows: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
    order: Sequence[int],
) -> float:
    """Compare what two models answer, the one as given and the trimmed one, on the same texts.

    Args:
        models: both.
        tokenizers: of each.
        rows: the texts' token ids for each.
        order: rows of the embeddings that were kept: these columns of the first model's answers are compared.

    Returns:
        The largest difference of any number.

    Raises:
        TrimformerError: it is more than rounding.
    """
    largest = 0.0
    longest = int(min(ANSWERED_TOKENS, most_tokens(models[0].config), tokenizers[0].model_max_length))
    step = ROWS_AT_ONCE if tokenizers[0].pad_token is not None else 1
    for start in range(0, len(rows[0]), step):
        answers = [
            _answers(model, tokenizer, [row[:longest] for row in ids[start : start + step]])
            for model, tokenizer, ids in zip(models, tokenizers, rows, strict=True)
        ]
        for name, dense in answers[0].items():
            small = answers[1][name]
            kept = dense if dense.shape == small.shape else dense[..., list(order)]
            difference = (kept - small).abs().max().item()
            enough = max(ENOUGH, 4 * torch.finfo(dense.dtype).eps) * max(1.0, kept.abs().max().item())
            largest = max(largest, difference)
            if not difference <= enough:
                raise TrimformerError(
                    f"the trimmed model answers otherwise: {name} differs by {difference:.3g} on texts that are split "
                    "into the same tokens; nothing was written; report this"
                )
    return largest


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """Run a model on rows of token ids, padded, and give the numbers that it answers by name."""
    if len(rows) > 1:
        batch: Any = tokenizer.pad({"input_ids": [list(row) for row in rows]}, return_tensors="pt")
    else:
        batch = {"input_ids": torch.tensor(rows)}
    inputs = {name: values.to(model.device) for name, values in batch.items() if name in inputs_of(model)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with frozen(model), torch.no_grad():
        output = model(**inputs)
    return {name: values for name, values in output.items() if torch.is_tensor(values) and values.is_floating_point()}
