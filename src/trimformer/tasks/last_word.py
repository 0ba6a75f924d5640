"""The last word of a passage: whether a decoder foresees it from all that comes before.

Source: LAMBADA (Paperno et al., arXiv 1606.06031), whose passages are chosen so that a whole one is needed; here they
are the user's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.columns import choose_columns, row_names, texts
from trimformer.data.encoding import length_limit
from trimformer.data.files import read_split_of_text
from trimformer.data.rows import Features, Split
from trimformer.errors import DataError, LabelError
from trimformer.judging.continuation import continuation, row_of, scored
from trimformer.judging.metrics import Metrics
from trimformer.judging.statistics import mean, metric
from trimformer.model.limits import fitted
from trimformer.progress import Progress

COLUMNS = (("text",), ("sentence",), ("content",))
LAST_WORD = re.compile(r"(?P<before>.*\S)(?P<last>\s+\S*\w)\W*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class LastWord:
    """The task of saying a passage's last word."""

    description: str = "the last word of your own passages, foreseen by a decoder: accuracy"
    auto_class: str = "AutoModelForCausalLM"
    metrics: tuple[str, ...] = ("accuracy",)

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the rows of one split from a folder or one file; rows without any text are left out.

        Raises:
            DataError: no source, or rows that cannot be read or have no text.
        """
        return read_split_of_text(source, split, "last_word")

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode each passage as one feature, truncated to 128 tokens unless said.

        Raises:
            DataError: no text column, or one that holds something else than text.
            LabelError: `labels` is set; nothing is trained on last words.
        """
        if labels:
            raise LabelError("rows of the last_word task have no labels: choose a task that has")
        limit = length_limit(tokenizer, max_length)
        return [row_of(text, tokenizer, limit) for text in _passages(rows)]

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
        """Judge a model by `accuracy`: the share of passages whose last word's tokens are all the likeliest ones.

        Punctuation after the word is left out. `dense` is not needed.

        Raises:
            DataError: a passage of fewer than two words.
            UnsupportedModel: a model that gives no logits for every token.
        """
        limit = length_limit(fitted(tokenizer, model), max_length)
        parts = list(map(_before_and_last, _passages(rows), row_names(rows)))
        asked = [continuation(before, last, tokenizer, limit) for before, last in parts]
        found = scored(model, tokenizer, asked, progress=progress)
        return {"accuracy": metric(mean, [float(each.foreseen) for each in found])}


def _passages(rows: Dataset) -> list[str]:
    return texts(rows, choose_columns(rows, COLUMNS)[0])


def _before_and_last(text: str, where: str) -> tuple[str, str]:
    """Divide a passage before its last word, which has the space before it and no punctuation after it."""
    parts = LAST_WORD.fullmatch(text)
    if parts is None:
        raise DataError(f"{where}: {text!r:.60} has no last word after others: give passages of two words or more")
    return parts["before"], parts["last"]


PROVIDES = {"last_word": LastWord()}
