"""More text to compare two models on, made of the rows that are there: words and ends of sentences change places.

A dense model says what its block puts out for any text, so that a smaller one can learn from text that nobody wrote.
Whatever else a row has, its length and its marks stay: every tensor but the tokens is as it was.

Source: ours. Nearest relative: token replacement for distillation, TinyBERT (arXiv 1909.10351), which asks a language
model for words; none is asked here, and no label has to stay right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    words, generator = Words.of(batches), torch.Generator().manual_seed(seed)
    return [words.vary(batch, generator) for batch in batches]


@dataclass(frozen=True)
class Words:
    """The words of some rows, one after the other, by which those of a batch are replaced."""

    found: Tensor
    """Tokens that are no marks, as often as they occur, in order: `(words,)`."""
    marks: Tensor
    """Tokens that nearly every sequence has: `(marks,)`."""

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> Words:
        """Read the words and the marks of some rows."""
        marks = _marks(batches)
        return cls(torch.cat([_rows(batch)[_free(batch, marks)] for batch in batches]), marks)

    def vary(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Give a batch with other words in the same places; as it is where no words are known."""
        if not len(self.found):
            return batch
        ids, free = _rows(batch), _free(batch, self.marks)
        sequences, length = ids.shape

        def draw(count: int, *shape: int) -> Tensor:
            return torch.randint(count, shape, generator=generator)

        cut = torch.rand(sequences, 1, generator=generator) * length / SPLICED
        place = torch.arange(length)
        other = self.found[(draw(len(self.found), sequences, 1) + place) % len(self.found)]
        ids = torch.where(free & (place >= cut), other, ids)
        replaced = free & (torch.rand(sequences, length, generator=generator) < REPLACED)
        ids = torch.where(replaced, self.found[draw(len(self.found), sequences, length)], ids)
        return {**batch, TOKENS: ids.view(batch[TOKENS].shape).to(batch[TOKENS])}


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
