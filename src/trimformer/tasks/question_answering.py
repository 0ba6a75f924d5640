"""Question answering: find the answer to a question in a context, judged by SQuAD's F1 and exact match.

A long context is cut into windows that overlap, each with the whole question; the best answer over a question's
windows is its answer. A question may have none, as in SQuAD 2.0: then the first token's logits say so.

Source: Rajpurkar et al. (arXiv 1606.05250, 1806.03822); windows after Devlin et al. (arXiv 1810.04805).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torchmetrics.functional.text import squad as squad_scores
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.answers import flatten, read_answers
from trimformer.data.columns import choose_columns, has_columns, read_column, require_columns, row_names, texts
from trimformer.data.encoding import length_limit
from trimformer.data.files import read_rows, read_split
from trimformer.data.hub import read_hub
from trimformer.data.labels import about_labels
from trimformer.data.rows import MODEL_INPUTS, Batch, Features, Split
from trimformer.errors import DataError, InvalidOption, UnsupportedModel
from trimformer.judging.evaluation import outputs_by_row
from trimformer.judging.metrics import Metrics
from trimformer.judging.statistics import mean, metric
from trimformer.progress import Progress

ANSWERS = (("answers",), ("answer",))
MAX_LENGTH = 384
SHORTEST_MAX_LENGTH = 16
STRIDE = 128
MAX_QUESTION_TOKENS = 64
MAX_ANSWER_TOKENS = 30
CANDIDATES = 20
QUESTIONS_AT_ONCE = 1000


@dataclass(frozen=True)
class Window:
    """A question with one stretch of its context, encoded."""

    question: int
    """Number of the question's row, from 0."""
    inputs: Features
    context_start: int
    """Index of the first context token among the window's tokens."""
    spans: Tensor
    """`(context tokens, 2)`: where each token begins and ends in the context, in characters."""

    def positions(self, place: tuple[int, int] | None) -> dict[str, int]:
        """Find the first and last token of the answer between two characters of the context; 0 unless all is here."""
        first = last = 0
        if place is not None and self.spans[0, 0] <= place[0] and place[1] <= self.spans[-1, 1]:
            inside = ((self.spans[:, 1] > place[0]) & (self.spans[:, 0] < place[1])).nonzero()[:, 0]
            first, last = (self.context_start + int(inside[index]) for index in (0, -1))
        return {"start_positions": first, "end_positions": last}


@dataclass(frozen=True)
class Span:
    """An answer in a window: context tokens `first` to `last`, both included."""

    score: float
    first: int
    last: int


@dataclass
class Answer:
    """The best answer found so far to one question."""

    text: str = ""
    score: float = float("-inf")
    null_score: float = float("inf")
    """Lowest score of "no answer" over the windows."""


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering:
    """The task of rows of one's own, or of one version of SQuAD."""

    description: str
    hub_name: str | None = None
    may_lack_answer: bool | None = None
    """Whether a question may have no answer; None: where one of the rows has none."""
    auto_class: str = field(default="AutoModelForQuestionAnswering")
    metrics: tuple[str, ...] = ("f1", "exact_match")

    def fits(self, source: str) -> bool:
        """Tell whether the rows of a source have answers."""
        return has_columns(read_rows(source, "validation"), [*ANSWERS, ("paragraphs",)])

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read one row a question, from a folder, one file (flat or in the official nested form), or (None) the hub.

        Raises:
            DataError: rows that cannot be read, lack a column, or lack an answer where the version demands one.
        """
        if source is None and self.hub_name is None:
            raise DataError("the question_answering task has no rows of its own: give a file or folder as `data`")
        read = read_hub(str(self.hub_name), None, split) if source is None else read_split(source, split)
        rows = flatten(read) if "paragraphs" in read.column_names else read
        require_columns(rows, ["question", "context"])
        if split == "validation":
            self.accepted_answers(rows)
        return rows

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode each window, of at most 384 tokens unless said, as one feature; answers are not needed.

        With `labels` also first and last token of the row's first answer; both 0 in a window that lacks part of it.

        Raises:
            DataError: a column is missing or holds something else than text, or a context is empty.
            InvalidOption: a tokenizer without offsets, or `max_length` out of range.
            LabelError: `labels` is set, and a row's answer is missing or outside its context.
        """
        places = self._answer_places(rows) if labels else None
        found = windows(rows, tokenizer, max_length)
        return [{**window.inputs, **(window.positions(places[window.question]) if places else {})} for window in found]

    @about_labels()
    def _answer_places(self, rows: Dataset) -> list[tuple[int, int] | None]:
        """Find where each row's first answer begins and ends in its context, in characters; None where it has none."""
        self.accepted_answers(rows)
        places: list[tuple[int, int] | None] = []
        for where, given, context in zip(row_names(rows), _column(rows), texts(rows, "context"), strict=True):
            accepted, starts = read_answers(given) or ([], [])
            if not accepted:
                places.append(None)
                continue
            start = starts[0] if starts else context.find(accepted[0])
            end = start + len(accepted[0])
            if not 0 <= start < end <= len(context):
                wrong = f"does not begin at {start}" if starts else "is not in its context"
                raise DataError(f"{where}: the answer {accepted[0]!r:.40} {wrong}")
            places.append((start, end))
        return places

    def accepted_answers(self, rows: Dataset) -> list[list[str]]:
        """Read the texts that count as right, by row; none where the question has no answer.

        Raises:
            DataError: answers in another form than those of `read_answers`, or none where the version demands one.
        """
        accepted = []
        for where, answers in zip(row_names(rows), _column(rows), strict=True):
            found = read_answers(answers)
            if found is None:
                said = '{"text": […], "answer_start": […]}, nor a text or a list of texts'
                raise DataError(f"{where}: 'answers' is not {said}")
            if not found[0] and self.may_lack_answer is False:
                raise DataError(f"{where} has no answer: give answered questions, or use task squad_v2")
            accepted.append(found[0])
        return accepted

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
        """Judge a model by F1 and exact match over questions, as shares in [0, 1]; `dense` is not needed.

        Raises:
            UnsupportedModel: a model without start and end logits.
            DataError: as `accepted_answers` and `encode`.
        """
        accepted = self.accepted_answers(rows)
        found = list(windows(rows, tokenizer, max_length))
        logits = outputs_by_row(model, tokenizer, [window.inputs for window in found], _read, progress=progress)[
            "logits"
        ]
        lacking = not all(accepted) if self.may_lack_answer is None else self.may_lack_answer
        answers = best_answers(found, logits, read_column(rows, "context"), may_lack_answer=lacking)
        scores = [score(answer, right) for answer, right in zip(answers, accepted, strict=True)]
        return {name: metric(mean, [row[name] for row in scores]) for name in ("f1", "exact_match")}


def _column(rows: Dataset) -> list[Any]:
    return read_column(rows, choose_columns(rows, ANSWERS)[0])


def windows(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> Iterator[Window]:
    """Cut questions and contexts into windows, in order; those of one question overlap.

    They have 128 tokens of the context in common, or a third of a window that is shorter than 384 tokens.

    Raises:
        DataError: a text that is none, or a context without tokens.
        InvalidOption: a tokenizer without offsets, or `max_length` out of range.
    """
    limit = length_limit(tokenizer, max_length, MAX_LENGTH)
    if limit < SHORTEST_MAX_LENGTH:
        raise InvalidOption(f"`max_length={limit}` leaves no room for a context: use {SHORTEST_MAX_LENGTH} or more")
    if not tokenizer.is_fast:
        raise InvalidOption(f"{type(tokenizer).__name__} does not tell where its tokens are: use a fast tokenizer")
    questions = texts(rows, "question")
    contexts = texts(rows, "context")
    names = row_names(rows)
    for first in range(0, len(rows), QUESTIONS_AT_ONCE):
        chosen = slice(first, first + QUESTIONS_AT_ONCE)
        yield from _windows_of(questions[chosen], contexts[chosen], tokenizer, limit, first, names[chosen])


def _windows_of(
    questions: list[str],
    contexts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    first: int,
    names: Sequence[str],
) -> Iterator[Window]:
    encoded = tokenizer(
        _shortened(questions, tokenizer, min(MAX_QUESTION_TOKENS, limit // 4)),
        contexts,
        truncation="only_second",
        max_length=limit,
        stride=min(STRIDE, limit // 3),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    present = [name for name in MODEL_INPUTS if name in encoded]
    for index, row in enumerate(encoded["overflow_to_sample_mapping"]):
        parts = encoded.sequence_ids(index)
        tokens = parts.count(1)
        if not tokens:
            raise DataError(f"{names[row]} has an empty context: remove the row")
        start = parts.index(1)
        spans = torch.tensor(encoded["offset_mapping"][index][start : start + tokens], dtype=torch.int32)
        yield Window(first + row, {name: encoded[name][index] for name in present}, start, spans)


def _shortened(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, tokens: int) -> list[str]:
    """Strip questions of leading blanks and cut them after so many tokens, so that the context always has room."""
    stripped = [question.lstrip() for question in questions]
    encoded = tokenizer(
        stripped, truncation=True, max_length=tokens, add_special_tokens=False, return_offsets_mapping=True
    )
    ends = [offsets[-1][1] if offsets else 0 for offsets in encoded["offset_mapping"]]
    return [question[:end] for question, end in zip(stripped, ends, strict=True)]


def best_span(start: Tensor, end: Tensor) -> Span:
    """Find the answer of at most 30 tokens with the highest sum of logits among the 20 likeliest starts and ends.

    Args:
        start: logits of the context's tokens, `(tokens,)`.
        end: likewise.

    Returns:
        A span with score minus infinity if no start has an end after it.
    """
    starts = start.topk(min(CANDIDATES, len(start)))
    ends = end.topk(min(CANDIDATES, len(end)))
    length = ends.indices[None, :] - starts.indices[:, None] + 1
    total = starts.values[:, None] + ends.values[None, :]
    allowed = total.masked_fill((length < 1) | (length > MAX_ANSWER_TOKENS), float("-inf"))
    first, last = divmod(int(allowed.argmax()), len(ends.indices))
    return Span(float(allowed[first, last]), int(starts.indices[first]), int(ends.indices[last]))


def best_answers(
    found: Sequence[Window], logits: Sequence[Tensor], contexts: Sequence[str], *, may_lack_answer: bool
) -> list[str]:
    """Choose each question's answer by the `(2, tokens)` start and end logits of its windows; empty for none."""
    answers = [Answer() for _ in contexts]
    for window, (start, end) in zip(found, logits, strict=True):
        context = slice(window.context_start, window.context_start + len(window.spans))
        span = best_span(start[context], end[context])
        answer = answers[window.question]
        answer.null_score = min(answer.null_score, float(start[0] + end[0]))
        if span.score > answer.score:
            answer.score = span.score
            answer.text = contexts[window.question][int(window.spans[span.first, 0]) : int(window.spans[span.last, 1])]
    return ["" if may_lack_answer and answer.null_score > answer.score else answer.text for answer in answers]


def score(answer: str, accepted: Sequence[str]) -> dict[str, float]:
    """Score an answer by `f1` and `exact_match` after SQuAD's normalisation, best over the accepted ones, in [0, 1].

    Where none is accepted, only the empty answer is right.
    """
    right = list(accepted) or [""]
    target: Any = {"id": "", "answers": {"text": right, "answer_start": [0] * len(right)}}
    result = squad_scores([{"id": "", "prediction_text": answer}], [target])
    return {name: float(value) / 100 for name, value in result.items()}


def _read(output: Any, batch: Batch) -> Mapping[str, list[Tensor]]:
    if "start_logits" not in output:
        raise UnsupportedModel("the model does not answer questions: load it with AutoModelForQuestionAnswering")
    logits = torch.stack([output["start_logits"], output["end_logits"]], dim=1).float()
    token_masks = batch["attention_mask"].bool()
    return {"logits": [row[:, tokens] for row, tokens in zip(logits, token_masks, strict=True)]}


PROVIDES = {
    "question_answering": QuestionAnswering(
        description="your own question answering: find the answer in a context, if there is one; F1, exact match"
    ),
    "squad": QuestionAnswering(
        may_lack_answer=False,
        description="SQuAD 1.1: find the answer in a context; F1, exact match",
        hub_name="rajpurkar/squad",
    ),
    "squad_v2": QuestionAnswering(
        description="SQuAD 2.0: find the answer in a context, if there is one; F1, exact match",
        hub_name="rajpurkar/squad_v2",
        may_lack_answer=True,
    ),
}
