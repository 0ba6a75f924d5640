"""More rows to train on, without new labels: copies in which words are replaced by near ones.

Near are words whose embeddings in the model itself have the largest cosine. Every word is replaced by one of as many
tokens, one, so that labels of words and positions of answers stay right.

Differs from DynaBERT (which takes TinyBERT's augmentation): no masked language model and no GloVe vectors are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.rows import TOKENS, Features, choices

REPLACED, NEAR = 0.4, 15
"""Share of the words that are replaced, and how many of the nearest are drawn from, as TinyBERT's augmentation has."""


def augmented(
    rows: Sequence[Features], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, copies: int, seed: int
) -> list[Features]:
    """Add copies of all rows, with words replaced by near ones at random; all other columns stay.

    Args:
        rows: encoded; rows of a task that pads texts in pairs, without `input_ids`, stay as they are.
        model: its word embeddings say what is near.
        tokenizer: of the model; tells whole words from pieces and marks.
        copies: of each row; 0 adds none.
        seed: of what is replaced, and by what.
    """
    if not copies or TOKENS not in rows[0]:
        return list(rows)
    words = _whole_words(tokenizer)
    near = dict(zip(words, _nearest(model, words), strict=True))
    generator = torch.Generator().manual_seed(seed)
    return [*rows, *(_changed(row, near, generator) for _ in range(copies) for row in rows)]


def _whole_words(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """List the ids of tokens that are letters only, and so begin and end a word wherever its marks say so."""
    special = set(tokenizer.all_special_ids)
    tokens = {index: token for token, index in tokenizer.get_vocab().items() if index not in special}
    marked = any(token.startswith("##") for token in tokens.values())
    spaced = next((mark for mark in ("Ġ", "▁") if any(token.startswith(mark) for token in tokens.values())), None)
    if marked or spaced is None:
        return sorted(index for index, token in tokens.items() if token.isalpha())
    return sorted(index for index, token in tokens.items() if token.startswith(spaced) and token[1:].isalpha())


def _nearest(model: PreTrainedModel, words: Sequence[int]) -> list[list[int]]:
    """Give for every word the words whose embeddings are nearest, itself left out."""
    words_module: Any = model.get_input_embeddings()
    embeddings: Tensor = words_module.weight.detach()
    vectors = F.normalize(embeddings[torch.tensor(words, device=embeddings.device)].float(), dim=-1)
    count, places = min(NEAR, len(words) - 1), []
    for chunk in range(0, len(words), 1024):
        cosines = vectors[chunk : chunk + 1024] @ vectors.T
        cosines[torch.arange(len(cosines)), torch.arange(chunk, chunk + len(cosines))] = -1.0
        places += cosines.topk(count).indices.tolist()
    return [[words[place] for place in row] for row in places]


def _changed(row: Features, near: dict[int, list[int]], generator: torch.Generator) -> Features:
    sequences = [_replaced(sequence, near, generator) for sequence in choices(row)]
    nested = len(row[TOKENS]) > 0 and isinstance(row[TOKENS][0], Sequence)
    return {**row, TOKENS: sequences if nested else sequences[0]}


def _replaced(tokens: Sequence[int], near: dict[int, list[int]], generator: torch.Generator) -> list[int]:
    drawn = torch.rand(2, len(tokens), generator=generator).tolist()
    return [
        near[token][int(which * len(near[token]))] if token in near and near[token] and chance < REPLACED else token
        for token, chance, which in zip(tokens, *drawn, strict=True)
    ]
