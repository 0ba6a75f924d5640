"""How likely a decoder finds one text after another: the log-probability of its tokens, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.batches import tokens_at_once
from trimformer.data.rows import Batch, Features
from trimformer.errors import DataError, UnsupportedModel
from trimformer.judging.evaluation import outputs_by_row
from trimformer.progress import Progress


@dataclass(frozen=True)
class Continuation:
    """A text after another, as tokens: those of both, of which the last `new` are the continuation's."""

    ids: list[int]
    new: int


@dataclass(frozen=True)
class Scored:
    """Tells what a model makes of a continuation."""

    log_probability: float
    """Of all its tokens, in nats."""
    foreseen: bool
    """Whether each of its tokens is the one that the model finds likeliest after those before."""


def continuation(before: str, after: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Continuation:
    """Tokenize two texts as one; the continuation begins where the tokens are no longer those of the first alone.

    What is too long loses its first tokens.

    Raises:
        DataError: a continuation without a token, or without a token before it.
    """
    begin = beginning(tokenizer)
    alone, both = (begin + tokens(text, tokenizer) for text in (before, before + after))
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(alone, both, strict=False)))
    ids = both[-max_length:]
    new = len(both) - alike
    if not 0 < new < len(ids):
        raise DataError(
            f"{after!r:.60} after {before!r:.60} leaves nothing to predict from, or nothing to predict: "
            "give texts that are not empty, and a `max_length` that has room for both"
        )
    return Continuation(ids, new)


def row_of(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Features:
    """Encode a text as a decoder reads it, cut at so many tokens."""
    ids = [*beginning(tokenizer), *tokens(text, tokenizer)][:max_length]
    return {"input_ids": ids, "attention_mask": [1] * len(ids)}


def tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokenize a text as it is, with nothing put before or after it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Find the token that the tokenizer puts before every text, as a list; empty where it puts none."""
    first: list[int] = tokenizer("")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def scored(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    continuations: Sequence[Continuation],
    *,
    progress: Progress | None = None,
) -> list[Scored]:
    """Score every continuation with a decoder.

    Raises:
        UnsupportedModel: a model that gives no logits for every token.
    """
    rows: list[Features] = [{"input_ids": each.ids, "attention_mask": [1] * len(each.ids)} for each in continuations]
    found = outputs_by_row(model, tokenizer, rows, _read, progress=progress, max_padded_tokens=tokens_at_once(model))
    scores = []
    for each, logs, hits in zip(continuations, found["log-probability"], found["likeliest"], strict=True):
        own = slice(len(each.ids) - 1 - each.new, len(each.ids) - 1)
        scores.append(Scored(float(logs[own].double().sum()), bool(hits[own].all())))
    return scores


def log_probabilities(output: Any, batch: Batch) -> Tensor:
    """Read the predictions of every token but the first: `(batch, length − 1, vocabulary)`, in float32.

    Raises:
        UnsupportedModel: a model that gives no logits for every token.
    """
    logits = getattr(output, "logits", None)
    if logits is None or logits.ndim != 3 or logits.shape[:2] != batch["input_ids"].shape:
        raise UnsupportedModel("this needs a model that predicts every next token: load a causal language model")
    scores: Tensor = logits[:, :-1].float().log_softmax(-1)
    return scores


def _read(output: Any, batch: Batch) -> dict[str, Tensor]:
    scores, targets = log_probabilities(output, batch), batch["input_ids"][:, 1:]
    likeliest = (scores.argmax(-1) == targets).to(torch.float32)
    return {"log-probability": scores.gather(-1, targets[..., None])[..., 0], "likeliest": likeliest}
