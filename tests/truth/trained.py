"""Tiny models that have learned something, trained here in a second each: a random model has nothing to lose.

A class: which of two words occurs more often in a row; a number: how much more often, as a share; a class of every
token, read off the token before it; and the next word of a text in which every word has three successors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from trimformer.data.batches import make_batches
from trimformer.data.rows import Batch, Features

WORDS = 24
"""Size of the vocabulary: 0 is padding, 1 begins a row, 2 and 3 are the words that are counted."""
LENGTHS = (6, 16)
TOKEN_CLASSES = 3
SUCCESSORS, LIKELY = 20, [0.6, 0.3, 0.1]

_SIZES = {"vocab_size": WORDS, "pad_token_id": 0, "initializer_range": 0.1}
_BERT = {
    **_SIZES,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_GPT2 = {
    **_SIZES,
    "initializer_range": 0.02,
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 32,
    "n_positions": 32,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}

Rows = Callable[[int, int], list[Features]]
"""So many rows, by seed."""


def counting_rows(count: int, seed: int) -> list[Features]:
    """Labelled by which of the two counted words occurs more often."""
    return [{**row, "labels": int(row["labels"] > 0)} for row in share_rows(count, seed)]


def share_rows(count: int, seed: int) -> list[Features]:
    """Labelled by how much more often than the other one a counted word occurs, as a share of the row."""
    generator, rows = torch.Generator().manual_seed(seed), list[Features]()
    while len(rows) < count:
        ids = torch.randint(
            2, 8, (int(torch.randint(*LENGTHS, (), generator=generator)),), generator=generator
        ).tolist()
        more = ids.count(3) - ids.count(2)
        if more:
            rows.append({"input_ids": [1, *ids], "labels": 3.0 * more / len(ids)})
    return rows


def token_rows(count: int, seed: int) -> list[Features]:
    """Every token labelled by the word before it."""
    generator, rows = torch.Generator().manual_seed(seed), list[Features]()
    for _ in range(count):
        ids = torch.randint(
            2, 14, (int(torch.randint(*LENGTHS, (), generator=generator)),), generator=generator
        ).tolist()
        rows.append({"input_ids": [1, *ids], "labels": [-100, *(word % TOKEN_CLASSES for word in [1, *ids[:-1]])]})
    return rows


def text_rows(count: int, seed: int) -> list[Features]:
    """A text: every word is followed by one of three others."""
    orders = [torch.randperm(SUCCESSORS, generator=torch.Generator().manual_seed(word)) + 4 for word in range(WORDS)]
    following = [order[: len(LIKELY)].tolist() for order in orders]
    generator, rows = torch.Generator().manual_seed(seed), list[Features]()
    for _ in range(count):
        length = int(torch.randint(*LENGTHS, (), generator=generator))
        drawn = torch.rand(length, generator=generator)[:, None] > torch.tensor(LIKELY).cumsum(0)[:-1]
        ids = [1]
        for chosen in drawn.sum(1).tolist():
            ids.append(following[ids[-1]][chosen])
        rows.append({"input_ids": ids, "labels": ids})
    return rows


def unlabelled(rows: list[Features]) -> list[Features]:
    return [{"input_ids": row["input_ids"]} for row in rows]


@cache
def classifier() -> PreTrainedModel:
    config = transformers.BertConfig(**_BERT, num_labels=2)
    return _trained(lambda: transformers.BertForSequenceClassification(config), counting_rows, seed=0, steps=60)


@cache
def regressor() -> PreTrainedModel:
    config = transformers.BertConfig(**_BERT, num_labels=1, problem_type="regression")
    return _trained(lambda: transformers.BertForSequenceClassification(config), share_rows, seed=0, steps=60)


@cache
def token_classifier(seed: int) -> PreTrainedModel:
    config = transformers.BertConfig(**_BERT, num_labels=TOKEN_CLASSES)
    return _trained(lambda: transformers.BertForTokenClassification(config), token_rows, seed=seed, steps=150)


@cache
def language_model(seed: int) -> PreTrainedModel:
    config = transformers.GPT2Config(**_GPT2)
    return _trained(lambda: transformers.GPT2LMHeadModel(config), text_rows, seed=seed, steps=150)


def _trained(
    build: Callable[[], Any], rows: Rows, *, seed: int, steps: int, batch: int = 32, rate: float = 5e-3
) -> PreTrainedModel:
    """In evaluation mode. Every row is seen once; nobody may change the model, which is kept for other tests."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = build()
    given = make_batches(rows(steps * batch, seed), None, "cpu", labels=True)
    order = torch.randperm(len(given), generator=torch.Generator().manual_seed(seed)).tolist()
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=len(given))
    model.train()
    for index in order:
        optimizer.zero_grad()
        model(**given[index]).loss.backward()
        optimizer.step()
        schedule.step()
    model.zero_grad()
    return model.eval()


def of_few_lengths(rows: Rows, each: int, seed: int) -> list[Batch]:
    """One padded batch of rows of three lengths, so many of each; plain computations leave its padding out."""
    drawn = unlabelled(rows(60 * each, seed))
    chosen = [[row for row in drawn if len(row["input_ids"]) == length][:each] for length in (14, 11, 7)]
    return make_batches([row for part in chosen for row in part], None, "cpu")


@cache
def held_out(rows: Rows, count: int = 80) -> list[Batch]:
    """Batches of rows that neither training nor calibration has seen."""
    return make_batches(unlabelled(rows(count, 10_000)), None, "cpu")
