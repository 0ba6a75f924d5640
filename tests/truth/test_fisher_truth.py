"""Fisher directions have the exact Fisher information, and depend on a row's tokens alone, whatever sizes coincide.

`fisher_loss` is linear in the predictions, so that its gradient there is the direction `v` that was drawn for each of
them; `E[v vᵀ]` is to be `diag(p) − p pᵀ` for every prediction that counts (`I` for numbers), and nothing between two.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import reach
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tiny_models import WIDTH, tiny_model
from trimformer.data.rows import Batch
from trimformer.observing.predictions import Predictions, fisher_loss

DRAWS = 1000
TOLERANCE = 5 / DRAWS**0.5
"""Five standard deviations of a mean of products of signs."""
LENGTH = 4
"""Real tokens of a row."""
VOCABULARY = 12

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "two classes": ("bert", "sequence classification", {"num_labels": 2}),
    "five classes": ("bert", "sequence classification", {"num_labels": 5}),
    "classes of tokens": ("bert", "token classification", {"num_labels": 5}),
    "masked language model": ("bert", "masked language model", {"vocab_size": VOCABULARY}),
    "language model": ("gpt2", "language model", {"vocab_size": VOCABULARY}),
    "answers": ("bert", "question answering", {}),
    "labels": ("bert", "sequence classification", {"num_labels": 5, "problem_type": "multi_label_classification"}),
    "number": ("bert", "regression", {}),
    "numbers": ("bert", "regression", {"num_labels": 5}),
    "embedding": ("bert", "encoder", {}),
}
SIZES = {"embedding": WIDTH, "masked language model": VOCABULARY, "language model": VOCABULARY}
"""Where it is not 5: how many classes or numbers a prediction has, which a batch's length may happen to be."""
LENGTHS = {name: (LENGTH, 5, SIZES.get(name, 5), SIZES.get(name, 5) + 3) for name in CASES}
EVERY_LENGTH = pytest.mark.parametrize(
    ("name", "length"), [(name, length) for name in CASES for length in dict.fromkeys(LENGTHS[name])]
)


def model_of(name: str) -> PreTrainedModel:
    architecture, head, config = CASES[name]
    return tiny_model(architecture, head, **config)


def padded(ids: list[list[int]], length: int) -> Batch:
    rows = [torch.tensor(row) for row in ids]
    return {
        "input_ids": torch.stack([torch.cat([row, row.new_zeros(length - len(row))]) for row in rows]),
        "attention_mask": torch.stack([(torch.arange(length) < len(row)).long() for row in rows]),
    }


@torch.no_grad()
def predicted(model: PreTrainedModel, batch: Batch) -> Predictions:
    return reach.predicted(model(**batch), batch, model)


def directions(given: Predictions, batch: Batch, seed: int = 0) -> Tensor:
    """The gradient of the loss at the predictions: `(rows, predictions, classes)`."""
    values = given.values.clone().requires_grad_()
    fisher_loss(replace(given, values=values), batch, seed).sum().backward()
    assert values.grad is not None
    return values.grad


def exact(given: Predictions, row: int = 0) -> Tensor:
    """Fisher information of one row's predictions, `(predictions · classes,)` squared, from the definition."""
    blocks = []
    for values, weight in zip(given.values[row], given.weights[row], strict=True):
        shares = values.softmax(-1)
        information = torch.diag(shares) - torch.outer(shares, shares)
        blocks.append(torch.eye(len(values)) if given.family == "gaussian" else information * float(weight > 0))
    return torch.block_diag(*blocks)


@EVERY_LENGTH
def test_directions_have_the_exact_fisher_information(name: str, length: int) -> None:
    """Over thousands of rows that differ in their tokens, and so in what is drawn, but have the same predictions."""
    model = model_of(name)
    one = predicted(model, padded([[5, 6, 7, 8]], length))
    many = replace(one, values=one.values.expand(DRAWS, -1, -1), weights=one.weights.expand(DRAWS, -1))
    ids = torch.randint(5, 30_000, (DRAWS, LENGTH), generator=torch.Generator().manual_seed(0)).tolist()
    found = directions(many, padded(ids, length)).flatten(1)
    scale = 1.0 if one.family == "gaussian" else 0.25
    torch.testing.assert_close(found.T @ found / DRAWS, exact(one), atol=TOLERANCE * scale, rtol=0)


@EVERY_LENGTH
def test_directions_do_not_depend_on_batch_and_padding(name: str, length: int) -> None:
    model = model_of(name)
    rows = [[5, 6, 7, 8], [9, 10, 11], [8, 5], [11, 10, 9, 5]]
    batch = padded(rows, length)
    together = directions(predicted(model, batch), batch)
    for number, row in enumerate(rows):
        alone = padded([row], len(row))
        given = predicted(model, alone)
        found = directions(given, alone)[0]
        real = together[number]
        if given.token_axis is not None:
            along = given.token_axis - 1
            assert not real.narrow(along, len(row), length - len(row)).any(), "padding has no direction"
            real = real.narrow(along, 0, len(row))
        torch.testing.assert_close(real, found, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("two classes", "number")])
def test_directions_differ_by_seed_and_by_row(name: str) -> None:
    model = model_of(name)
    batch = padded([[5, 6, 7, 8], [5, 6, 7, 9]], LENGTH)
    one = predicted(model, padded([[5, 6, 7, 8]], LENGTH))
    two = replace(one, values=one.values.expand(2, -1, -1), weights=one.weights.expand(2, -1))
    drawn = torch.stack([directions(two, batch, seed).sign() for seed in range(6)])
    assert bool((drawn[:, 0] != drawn[:, 1]).any())
    assert bool((drawn != drawn[0]).any())


@pytest.mark.parametrize("name", ["two classes", "number"])
def test_nothing_is_left_to_chance_for_one_choice_of_two_and_for_one_number(name: str) -> None:
    """Whatever the sign, the square of the direction is the Fisher information of this very row."""
    model, batch = model_of(name), padded([[5, 6, 7, 8], [9, 10, 11, 5]], LENGTH)
    given = predicted(model, batch)
    for row, found in enumerate(directions(given, batch).flatten(1)):
        torch.testing.assert_close(torch.outer(found, found), exact(given, row))
