"""Multiple choice: which of several texts answers a question or continues a text, judged by accuracy.

Chosen by a model with a head for it, or by a decoder, which takes the likeliest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.columns import choose_columns, has_columns, read_column, row_names, texts
from trimformer.data.encoding import encode_texts, length_limit
from trimformer.data.files import read_rows, read_split
from trimformer.data.labels import about_labels
from trimformer.data.rows import CHOOSING, Batch, Features, Split
from trimformer.errors import DataError, LabelError, UnsupportedModel
from trimformer.judging import statistics
from trimformer.judging.continuation import Continuation, continuation, row_of, scored
from trimformer.judging.evaluation import outputs_by_row
from trimformer.judging.metrics import Metrics
from trimformer.judging.statistics import metric
from trimformer.model.limits import fitted
from trimformer.progress import Progress

ENDINGS = ("sent1", "sent2", "ending0", "ending1", "ending2", "ending3")
COLUMNS = (
    ENDINGS,
    ("article", "question", "options"),
    ("context", "question", "choices"),
    ("question", "choices"),
    ("prompt", "choices"),
    ("text", "choices"),
)
LABELS = (("label",), ("answer",), ("answerKey",), ("labels",))
CONTEXT = 1024
"""Tokens of a question with a choice, for a decoder; fewer where the tokenizer or the model allows fewer."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    """A question with the texts to choose from, and what each is called."""

    first: str
    choices: tuple[str, ...]
    """As the model reads them: after the question, where a context is read first."""
    names: tuple[str, ...]
    texts: tuple[str, ...]
    """The choices as the row has them."""


@dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """The task of choosing one of several texts."""

    name: str = "multiple_choice"
    description: str = "your own multiple choice: accuracy of the choice"
    auto_class: str = "AutoModelForMultipleChoice"
    metrics: tuple[str, ...] = ("accuracy",)

    def fits(self, source: str) -> bool:
        """Tell whether the rows of a source have choices and answers."""
        rows = read_rows(source, "validation")
        return has_columns(rows, COLUMNS) and has_columns(rows, LABELS)

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the rows of one split from a folder or one file; validation rows must have answers.

        Raises:
            DataError: no source, or rows that cannot be read, lack a column, or have an answer that is no choice.
        """
        if source is None:
            raise DataError(f"the {self.name} task has no rows of its own: give a file or folder as `data`")
        rows = read_split(source, split)
        questions(rows)
        if split == "validation":
            answers(rows)
        return rows

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode each row as one feature of as many sequences as it has choices, of at most 128 tokens unless said.

        With `labels`, a feature's `labels` is the number of the right choice.

        Raises:
            DataError: rows without choices, or with something else than texts.
            LabelError: `labels` is set, and a row has no answer or a wrong one.
        """
        with about_labels():
            right = answers(rows) if labels else []
        asked = questions(rows)
        pairs = [(each.first, choice) for each in asked for choice in each.choices]
        encoded = iter(encode_texts([[a for a, _ in pairs], [b for _, b in pairs]], tokenizer, max_length))
        features: list[Features] = []
        for each in asked:
            sequences = [next(encoded) for _ in each.choices]
            features.append({name: [sequence[name] for sequence in sequences] for name in sequences[0]})
        return [{**row, "labels": own} for row, own in zip(features, right, strict=True)] if labels else features

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
        """Judge a model by `accuracy`, the share of right choices; `dense` is not needed.

        Raises:
            UnsupportedModel: a model that does not choose.
            DataError: as `answers` and `encode`.
        """
        if hasattr(model, "base_model_prefix") and not type(model).__name__.endswith(CHOOSING):
            raise UnsupportedModel("the model does not choose: load it with AutoModelForMultipleChoice")
        actual = answers(rows)
        features = self.encode(rows, tokenizer, max_length)
        logits = outputs_by_row(model, tokenizer, features, _read, progress=progress)["logits"]
        return {"accuracy": metric(statistics.accuracy, [int(row.argmax()) for row in logits], actual)}


@dataclass(frozen=True, kw_only=True)
class LikelihoodChoice(MultipleChoice):
    """The task of choosing one of several texts, by a decoder that has no head for it: the likeliest one is chosen."""

    name: str = "likelihood_choice"
    description: str = "your own multiple choice, by what a decoder finds likeliest: accuracy of the choice"
    auto_class: str = "AutoModelForCausalLM"
    metrics: tuple[str, ...] = ("accuracy", "accuracy_by_length")

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode each question with each of its choices as a feature, of at most 1024 tokens unless said.

        Raises:
            DataError: rows without choices, or with something else than texts.
            LabelError: `labels` is set; nothing is trained on choices by likelihood.
        """
        if labels:
            raise LabelError("nothing is trained on the likelihood_choice task: choose a task that has its own labels")
        limit = length_limit(tokenizer, max_length, CONTEXT)
        asked = [(each.first, choice) for each in questions(rows) for choice in each.choices]
        return [row_of(f"{first} {choice}", tokenizer, limit) for first, choice in asked]

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
        """Judge a model by the share of questions whose right choice it finds likeliest; `dense` is not needed.

        `accuracy` compares the log-probabilities of the choices, `accuracy_by_length` those divided by the number of
        characters, as the lm-evaluation-harness does in `acc` and `acc_norm`.

        Raises:
            UnsupportedModel: a model that gives no logits for every token.
            DataError: as `answers` and `encode`.
        """
        right, chosen = answers(rows), questions(rows)
        asked = _asked(rows, tokenizer, length_limit(fitted(tokenizer, model), max_length, CONTEXT))
        found = iter(scored(model, tokenizer, list(chain.from_iterable(asked)), progress=progress))
        logs = [[next(found).log_probability for _ in own] for own in asked]
        by_length = [
            [log / max(1, len(text)) for log, text in zip(own, each.choices, strict=True)]
            for own, each in zip(logs, chosen, strict=True)
        ]
        return {
            name: metric(statistics.accuracy, [int(np.argmax(own)) for own in values], right)
            for name, values in zip(self.metrics, (logs, by_length), strict=True)
        }


def _asked(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[Continuation]]:
    """Tokenize every question with each of its choices after it."""
    return [
        [continuation(each.first, f" {choice}", tokenizer, max_length) for choice in each.choices]
        for each in questions(rows)
    ]


def answers(rows: Dataset) -> list[int]:
    """Read the number of each row's right choice, from 0: given as such, as its letter or name, or as its text.

    Where all rows can be read in one of these ways only, they are. Else each row is read by itself.

    Raises:
        DataError: a row without an answer, with one that is none of its choices, or that can be read as two of them.
    """
    column = choose_columns(rows, LABELS)[0]
    given, asked = read_column(rows, column), questions(rows)
    ways = [[_called(value, names) for value, names in zip(given, own, strict=True)] for own in _names(asked)]
    whole = [way for way in ways if all(way)]
    found: list[int] = []
    for place, (where, value) in enumerate(zip(row_names(rows), given, strict=True)):
        places = set[int]().union(*(way[place] for way in whole or ways))
        if len(places) != 1:
            choices = len(asked[place].choices)
            wrong = f"which can be read as {len(places)} of" if places else "none of"
            raise DataError(
                f"{where}: {column!r} is {value!r:.60}, {wrong} the {choices} choices; "
                "give a number from 0, a letter from A, or the choice's text"
            )
        found += places
    return found


def _names(asked: Sequence[Question]) -> Iterator[list[tuple[Any, ...]]]:
    """Go through the ways to call the choices of all questions: by number, as text too, by letter or name, by text.

    Where choices have numbers as names, as some of ARC's do, a number as text is a name.
    """
    yield [tuple(range(len(each.choices))) for each in asked]
    as_text = [tuple(map(str, range(len(each.choices)))) for each in asked]
    yield [own if set(own).isdisjoint(each.names) else () for own, each in zip(as_text, asked, strict=True)]
    yield [tuple(each.names) for each in asked]
    yield [tuple(each.texts) for each in asked]


def _called(value: Any, names: Sequence[Any]) -> set[int]:
    wanted = value.strip() if isinstance(value, str) else value
    return {place for place, name in enumerate(names) if wanted == name}


def questions(rows: Dataset) -> list[Question]:
    """Read every row's question and choices: SWAG's columns, or a list of texts, or an object of labels and texts.

    Raises:
        DataError: a row that has fewer than two choices, or something else than texts.
    """
    columns = choose_columns(rows, COLUMNS)
    if columns == ENDINGS:
        first, second, *endings = (texts(rows, name) for name in ENDINGS)
        return [
            Question(start, tuple(f"{middle} {ending}" for ending in own), tuple(LETTERS[: len(own)]), own)
            for start, middle, own in zip(first, second, zip(*endings, strict=True), strict=True)
        ]
    *before, column = columns
    found = []
    asked = [texts(rows, name) for name in before]
    for where, given, *parts in zip(row_names(rows), read_column(rows, column), *asked, strict=True):
        about: dict[str, Any] = given if isinstance(given, dict) else {"text": given}
        choices, names = about.get("text"), about.get("label")
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(text, str) for text in choices):
            raise DataError(f"{where}: {column!r} is {given!r:.60}, not a list of two texts or more")
        last = [f"{parts[1]} {choice}" for choice in choices] if len(parts) > 1 else choices
        called = tuple(map(str, names or LETTERS[: len(choices)]))
        found.append(Question(parts[0], tuple(last), called, tuple(choices)))
    return found


def _read(output: Any, _: Batch) -> Mapping[str, Tensor]:
    return {"logits": output["logits"].float()}


PROVIDES = {"multiple_choice": MultipleChoice(), "likelihood_choice": LikelihoodChoice()}
