"""Masked language models: some tokens of a text are masked, and the model says what they were.

15 % of a row's tokens are masked, at least one, always the same ones of the same text. Rows to calibrate on are the
text as it is.

Source: Devlin et al. (arXiv 1810.04805), without their unmasked and random tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.columns import TEXT_COLUMNS, choose_columns, row_names, texts
from trimformer.data.encoding import encode_texts
from trimformer.data.files import read_split_of_text
from trimformer.data.rows import TOKENS, Batch, Features, Split
from trimformer.errors import DataError, InvalidOption, LabelError, UnsupportedModel
from trimformer.judging import statistics
from trimformer.judging.evaluation import outputs_by_row
from trimformer.judging.metrics import PERPLEXITY, Metrics
from trimformer.judging.statistics import metric
from trimformer.progress import Progress

MASKED_SHARE = 0.15
MAX_PADDED_TOKENS = 2048
"""Most tokens in a batch: each has the logits of a whole vocabulary."""


@dataclass(frozen=True, kw_only=True)
class FillMask:
    """The task of a masked language model."""

    description: str = "your own text for a masked language model: accuracy and perplexity of masked tokens"
    auto_class: str = "AutoModelForMaskedLM"
    metrics: tuple[str, ...] = ("accuracy", PERPLEXITY)

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the rows of one split from a folder or one file; rows without any text are left out.

        Raises:
            DataError: no source, rows that cannot be read, have no text column, or are all empty.
        """
        return read_split_of_text(source, split, "fill_mask")

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode each row as one feature, with nothing masked, truncated to 128 tokens unless said.

        Raises:
            DataError: no text column, or one that holds something else than text.
            LabelError: `labels` is set; text that is not masked has none.
        """
        if labels:
            raise LabelError("rows of the fill_mask task have no labels: choose a task that has")
        columns = [texts(rows, name) for name in choose_columns(rows, TEXT_COLUMNS)]
        return encode_texts(columns, tokenizer, max_length, row_names(rows))

    def evaluate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        *,
        dense: PreTrainedModel | None = None,
        max_length: int | None = None,
        progress: Progress | None = None,
    ) -> Metrics:
        """Judge a model by `accuracy` and `perplexity` of the masked tokens of all rows; `dense` is not needed.

        Raises:
            InvalidOption: a tokenizer without a mask.
            UnsupportedModel: a model that does not predict tokens.
            DataError: as `encode`, or no row has a token that can be masked; where some have, the others are left out.
        """
        if tokenizer.mask_token_id is None:
            raise InvalidOption(f"{type(tokenizer).__name__} has no mask token: give a masked model's own tokenizer")
        encoded = self.encode(rows, tokenizer, max_length)
        every = [(row, masked_places(row[TOKENS], tokenizer.all_special_ids)) for row in encoded]
        plain, places = [row for row, own in every if own], [own for _, own in every if own]
        if not plain:
            raise DataError("no row has a token that can be masked: its words are special or unknown to the tokenizer")
        masked = [_masked(row, own, tokenizer.mask_token_id) for row, own in zip(plain, places, strict=True)]
        read = partial(_read, tokenizer.mask_token_id)
        seen = outputs_by_row(model, tokenizer, masked, read, progress=progress, max_padded_tokens=MAX_PADDED_TOKENS)[
            "log_probabilities"
        ]
        logits = [
            found[[_mask_places(row, tokenizer.mask_token_id).index(place) for place in own]]
            for found, row, own in zip(seen, masked, places, strict=True)
        ]
        truth = [torch.tensor([row[TOKENS][place] for place in own]) for row, own in zip(plain, places, strict=True)]
        right = [int((found.argmax(-1) == own).sum()) for found, own in zip(logits, truth, strict=True)]
        losses = [float(F.nll_loss(found, own, reduction="sum")) for found, own in zip(logits, truth, strict=True)]
        counts = list(map(len, places))
        perplexity = replace(metric(statistics.perplexity, losses, counts), sample_size=sum(counts))
        return {"accuracy": metric(statistics.ratio, right, counts), PERPLEXITY: perplexity}


def masked_places(tokens: Sequence[int], special: Sequence[int]) -> list[int]:
    """Choose the places to mask: 15 % of a row's tokens that are not special, at least one; by the tokens alone."""
    ordinary = [place for place, token in enumerate(tokens) if token not in special]
    count = min(len(ordinary), max(1, round(MASKED_SHARE * len(ordinary))))
    seed = crc32(np.asarray(tokens, dtype=np.int64).tobytes())
    return sorted(np.random.default_rng(seed).permutation(ordinary)[:count].tolist())


def _masked(row: Features, places: Sequence[int], mask: int) -> Features:
    chosen = set(places)
    return {**row, TOKENS: [mask if place in chosen else token for place, token in enumerate(row[TOKENS])]}


def _mask_places(row: Features, mask: int) -> list[int]:
    """List the places of a row that hold the mask token: those that were masked, and any that the text had itself."""
    return [place for place, token in enumerate(row[TOKENS]) if token == mask]


def _read(mask: int, output: Any, batch: Batch) -> Mapping[str, list[Tensor]]:
    """Give the log-probabilities of all tokens at each place that holds the mask token, `(places, tokens)` a row."""
    if "logits" not in output or output["logits"].ndim != 3:
        raise UnsupportedModel("the model does not predict tokens: load it with AutoModelForMaskedLM")
    masked = batch[TOKENS] == mask
    return {
        "log_probabilities": [
            row[own].float().log_softmax(-1) for row, own in zip(output["logits"], masked, strict=True)
        ]
    }


PROVIDES = {"fill_mask": FillMask()}
