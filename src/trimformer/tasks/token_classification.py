"""Token classification: words with a tag each, such as named entities, judged by entity F1.

A word's tag is predicted at its first token. Entities are read from tags that begin with B-, I-, E- or S- as conlleval
does; where a model's tags have no such beginnings, as parts of speech, the share of right tags is the metric.

Source: Tjong Kim Sang and De Meulder (arXiv cs/0306050). Equal to seqeval's counts in its default mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.columns import choose_columns, has_columns, read_column, row_names
from trimformer.data.encoding import length_limit
from trimformer.data.files import read_rows, read_split
from trimformer.data.labels import IGNORED, about_labels, class_finder, class_names, tags_of
from trimformer.data.rows import MODEL_INPUTS, Batch, Features, Split
from trimformer.errors import DataError, InvalidOption, UnsupportedModel
from trimformer.judging import statistics
from trimformer.judging.evaluation import outputs_by_row
from trimformer.judging.metrics import Metrics
from trimformer.judging.statistics import metric
from trimformer.progress import Progress

WORDS = (("tokens",), ("words",))
TAGS = (("ner_tags",), ("tags",), ("labels",), ("ner",), ("pos_tags",), ("pos",))
OUTSIDE = "O"
ENTITY_MARKS = ("B-", "I-", "E-", "S-")
Entity = tuple[str, int, int]
"""Type, first and last word of an entity."""


@dataclass(frozen=True, kw_only=True)
class TokenClassification:
    """The task of a token classifier; until it knows a model, tags are whole numbers."""

    description: str = "your own token classifier, such as named entities: entity F1, or accuracy of tags"
    classes_of_tags: tuple[str, ...] = ()
    """Names of the tags, in the model's order."""
    auto_class: str = "AutoModelForTokenClassification"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, the judging one first."""
        return ("f1", "precision", "recall", "accuracy") if self._marks_entities else ("accuracy",)

    @property
    def _marks_entities(self) -> bool:
        return any(name.startswith(ENTITY_MARKS) for name in self.classes_of_tags)

    @property
    def head_config(self) -> dict[str, Any]:
        """Settings of a new head's config: the names of the tags."""
        names = dict(enumerate(self.classes_of_tags))
        return {"id2label": names, "label2id": {name: number for number, name in names.items()}} if names else {}

    def for_model(self, config: Any) -> TokenClassification:
        """Give the task with the tags of a model."""
        return replace(self, classes_of_tags=class_names(config.id2label))

    def for_rows(self, rows: Dataset) -> TokenClassification:
        """Give the task with the tags that occur in some rows, for a head that is yet to be trained."""
        return replace(self, classes_of_tags=tags_of(rows, choose_columns(rows, TAGS)[0]))

    def fits(self, source: str) -> bool:
        """Tell whether the rows of a source have words and tags."""
        rows = read_rows(source, "validation")
        return has_columns(rows, WORDS) and has_columns(rows, TAGS)

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the rows of one split from a folder or one file; validation rows must have tags.

        Raises:
            DataError: no source, or rows that cannot be read, lack a column, or have tags that the model lacks.
        """
        if source is None:
            raise DataError("the token_classification task has no rows of its own: give a file or folder as `data`")
        rows = read_split(source, split)
        words_of(rows)
        if split == "validation":
            self.tags(rows)
        return rows

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode each row's words as one feature, truncated to 128 tokens unless said; tags are not needed.

        With `labels`, the first token of a word has its tag's number, all others -100.

        Raises:
            DataError: rows without words.
            InvalidOption: a tokenizer that does not tell where its tokens are.
            LabelError: `labels` is set, and a row has no tags or wrong ones.
        """
        with about_labels():
            tags = self.tags(rows) if labels else []
        features, words = _encoded(words_of(rows), tokenizer, max_length)
        if not labels:
            return features
        return [
            {**feature, "labels": [IGNORED if word is None else own[word] for word in places]}
            for feature, places, own in zip(features, words, tags, strict=True)
        ]

    def tags(self, rows: Dataset) -> list[list[int]]:
        """Read the number of every word's tag, by row.

        Raises:
            DataError: a row without tags, with another number of them than words, or with one that the model lacks.
        """
        column = choose_columns(rows, TAGS)[0]
        feature = getattr(rows.features[column], "feature", None)
        find = class_finder(self.classes_of_tags, column) if self.classes_of_tags else None
        found: list[list[int]] = []
        for where, given, words in zip(row_names(rows), read_column(rows, column), words_of(rows), strict=True):
            tags = given.split() if isinstance(given, str) else given
            if not isinstance(tags, list) or len(tags) != len(words):
                counted = f"{len(tags)} tags for {len(words)} words" if isinstance(tags, list) else "unlabelled"
                raise DataError(f"{where} is {counted}: give one tag a word in {column!r}")
            if find is None and not all(isinstance(tag, int) and tag >= 0 for tag in tags):
                raise DataError(f"{where}: {column!r} has names, whose numbers only a model tells")
            found.append([find(tag, where, feature) if find else int(tag) for tag in tags])
        return found

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
        """Judge a model by `f1`, `precision`, `recall` of entities and `accuracy` of tags; `dense` is not needed.

        Words that were cut off count as outside of any entity. Where tags mark no entities, `accuracy` is alone.

        Raises:
            UnsupportedModel: a model that does not classify tokens.
            DataError: as `tags` and `encode`.
        """
        task = self.for_model(model.config)
        names = task.classes_of_tags
        actual = [[names[tag] for tag in row] for row in task.tags(rows)]
        features, places = _encoded(words_of(rows), tokenizer, max_length)
        logits = outputs_by_row(model, tokenizer, features, _read, progress=progress)["logits"]
        predicted = [
            _by_word(row.argmax(-1).tolist(), words, names, len(tags))
            for row, words, tags in zip(logits, places, actual, strict=True)
        ]
        right = [sum(map(str.__eq__, *pair)) for pair in zip(predicted, actual, strict=True)]
        accuracy = {"accuracy": metric(statistics.ratio, right, [len(tags) for tags in actual])}
        return (_of_entities(predicted, actual) | accuracy) if task._marks_entities else accuracy  # noqa: SLF001


def words_of(rows: Dataset) -> list[list[str]]:
    """Read the words of every row: a list, or a text with blanks between them.

    Raises:
        DataError: a row without words, or with something else.
    """
    column = choose_columns(rows, WORDS)[0]
    found = [given.split() if isinstance(given, str) else given for given in read_column(rows, column)]
    for where, words in zip(row_names(rows), found, strict=True):
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise DataError(f"{where}: {column!r} is {words!r:.60}, not a list of words; mend the row")
    return found


def entities(tags: Sequence[str]) -> set[Entity]:
    """Find the entities of a row's tags, whatever their scheme.

    >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"]))
    [('LOC', 3, 3), ('LOC', 4, 4), ('PER', 0, 1)]
    """
    found: set[Entity] = set()
    start, before_mark, before = 0, OUTSIDE, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        mark, kind = tag[:1], tag[1:].split("-", maxsplit=1)[-1] or "_"
        goes_on = mark not in ("B", "S", OUTSIDE) and before_mark not in ("E", "S", OUTSIDE) and kind == before
        if not goes_on:
            if before_mark != OUTSIDE:
                found.add((before, start, place - 1))
            start = place
        before_mark, before = mark, kind
    return found


def _of_entities(predicted: Sequence[Sequence[str]], actual: Sequence[Sequence[str]]) -> dict[str, Any]:
    pairs = [(entities(said), entities(right)) for said, right in zip(predicted, actual, strict=True)]
    both = np.asarray([len(said & right) for said, right in pairs])
    named, there = (np.asarray([len(pair[side]) for pair in pairs]) for side in (0, 1))
    return {
        "f1": metric(statistics.f1_of_counts, both, named, there),
        "precision": metric(statistics.ratio, both, named),
        "recall": metric(statistics.ratio, both, there),
    }


def _by_word(tags: Sequence[int], words: Sequence[int | None], names: Sequence[str], count: int) -> list[str]:
    found = [OUTSIDE] * count
    for tag, word in zip(tags, words, strict=True):
        if word is not None:
            found[word] = names[tag]
    return found


def _encoded(
    rows: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> tuple[list[Features], list[list[int | None]]]:
    """Encode rows of words; with them, by token, the word that it is the first of, None where it is of none."""
    if not tokenizer.is_fast:
        raise InvalidOption(f"{type(tokenizer).__name__} does not tell where its tokens are: use a fast tokenizer")
    encoded = tokenizer(
        [" ".join(words) for words in rows],
        truncation=True,
        max_length=length_limit(tokenizer, max_length),
        return_offsets_mapping=True,
    )
    present = [name for name in MODEL_INPUTS if name in encoded]
    features: list[Features] = [{name: encoded[name][row] for name in present} for row in range(len(rows))]
    firsts = [_first_tokens(words, spans) for words, spans in zip(rows, encoded["offset_mapping"], strict=True)]
    return features, firsts


def _first_tokens(words: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[int | None]:
    """Tell of every token, which begins and ends at these characters, whether it is a word's first, and of which."""
    of_character = [word for word, text in enumerate(words) for _ in range(len(text) + 1)]
    seen: set[int] = set()
    found: list[int | None] = []
    for start, end in spans:
        word = of_character[end - 1] if end > start else None
        found.append(None if word in seen else word)
        if word is not None:
            seen.add(word)
    return found


def _read(output: Any, batch: Batch) -> Mapping[str, list[Tensor]]:
    if "logits" not in output or output["logits"].ndim != 3:
        raise UnsupportedModel("the model does not classify tokens: load it with AutoModelForTokenClassification")
    masks = batch["attention_mask"].bool()
    return {"logits": [row[mask] for row, mask in zip(output["logits"].float(), masks, strict=True)]}


PROVIDES = {"token_classification": TokenClassification()}
