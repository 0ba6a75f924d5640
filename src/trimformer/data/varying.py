"""More text to compare two models on, made of the rows that are there: words and ends of sentences change places.

A dense model says what its block puts out for any text, so that a smaller one can learn from text that nobody wrote.
Whatever else a row has, its length and its marks stay: every tensor but the tokens is as it was.

Source: ours. Nearest relative: token replacement for distillation, TinyBERT (arXiv 1909.10351), which asks a language
model for words; none is asked here, and no label has to stay right.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimformer.data.batches import token_mask
from trimformer.data.rows import MODEL_INPUTS, TOKEN_MASK, TOKENS, Batch

SPLICED = 0.5
"""Share of the rows that go on, from some place, as another text does."""
REPLACED = 0.2
"""Share of the words that are replaced by others, drawn from all rows."""
MARKS = 0.9
"""A token in more than this share of the rows is a mark, such as those of begin and end: it stays where it is."""


def can_vary(batches: Sequence[Batch]) -> bool:
    """Tell whether the batches are of text alone: tokens that stand for pictures or sound must not change."""
    return all({TOKENS, TOKEN_MASK} <= set(batch) <= set(MODEL_INPUTS) for batch in batches)


def varied(batches: Sequence[Batch], seed: int) -> list[Batch]:
    """Give every batch with other words in the same places; marks, lengths and all other tensors stay.

    Args:
        batches: of text alone, by `can_vary`.
        seed: of what is replaced, and by what.
    """
    marks = _marks(batches)
    free = [_free(batch, marks) for batch in batches]
    words = torch.cat([_rows(batch)[may] for batch, may in zip(batches, free, strict=True)])
    if not len(words):
        return list(batches)
    generator = torch.Generator().manual_seed(seed)
    return [_varied(batch, may, words, generator) for batch, may in zip(batches, free, strict=True)]


def _rows(batch: Batch) -> Tensor:
    return batch[TOKENS].flatten(0, -2).cpu()


def _free(batch: Batch, marks: Tensor) -> Tensor:
    """Tell which tokens may change: those that are neither padding nor marks, `(sequences, length)`."""
    return token_mask(batch).cpu() & ~torch.isin(_rows(batch), marks)


def _marks(batches: Sequence[Batch]) -> Tensor:
    """Find the tokens that nearly every sequence has."""
    pairs = (pair for batch in batches for pair in zip(_rows(batch), token_mask(batch).cpu(), strict=True))
    found = [row[real].unique() for row, real in pairs]
    tokens, counts = torch.unique(torch.cat(found), return_counts=True)
    marks: Tensor = tokens[counts > MARKS * len(found)]
    return marks


def _varied(batch: Batch, free: Tensor, words: Tensor, generator: torch.Generator) -> Batch:
    ids = _rows(batch)
    sequences, length = ids.shape

    def draw(count: int, *shape: int) -> Tensor:
        return torch.randint(count, shape, generator=generator)

    cut = torch.rand(sequences, 1, generator=generator) * length / SPLICED
    place = torch.arange(length)
    other = words[(draw(len(words), sequences, 1) + place) % len(words)]
    ids = torch.where(free & (place >= cut), other, ids)
    replaced = free & (torch.rand(sequences, length, generator=generator) < REPLACED)
    ids = torch.where(replaced, words[draw(len(words), sequences, length)], ids)
    return {**batch, TOKENS: ids.view(batch[TOKENS].shape).to(batch[TOKENS])}
