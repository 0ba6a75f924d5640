"""Reranking: a cross-encoder reads a query with a document and scores it; relevant documents shall come first.

Rows are queries with lists of positives and negatives, or one document with its relevance each. Where no query has
two documents, as in pairs of sentences with a similarity, scores are correlated with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.batches import pad
from trimformer.data.encoding import encode_texts
from trimformer.data.files import read_rows, read_split
from trimformer.data.labels import pad_labels
from trimformer.data.rows import LABELS, Batch, Features, Split
from trimformer.errors import DataError, LabelError, UnsupportedModel
from trimformer.judging import statistics
from trimformer.judging.evaluation import outputs_by_row
from trimformer.judging.metrics import Metrics
from trimformer.judging.ranking import Ranking, has_rankings, ranked, ranks, read_rankings
from trimformer.judging.statistics import Array, metric
from trimformer.progress import Progress

MOST_OUTPUTS = 2


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """The task of a cross-encoder."""

    description: str = "your own cross-encoder: nDCG@10 and MRR of queries with documents, or correlation of pairs"
    auto_class: str = "AutoModelForSequenceClassification"
    metrics: tuple[str, ...] = ("ndcg_at_10", "mrr", "spearman")
    has_new_head: bool = False
    """Whether the model is yet to get its head, which then has one output."""

    @property
    def head_config(self) -> dict[str, Any]:
        """Settings of a new head's config: one output, the score."""
        return {"num_labels": 1} if self.has_new_head else {}

    def for_rows(self, rows: Dataset) -> Reranking:
        """Give the task for a model that is yet to get its head, whatever the rows."""
        return replace(self, has_new_head=True)

    def fits(self, source: str) -> bool:
        """Tell whether the rows of a source are queries with documents."""
        return has_rankings(read_rows(source, "validation"))

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the rows of one split from a folder or one file.

        Raises:
            DataError: no source, or rows that cannot be read or are no queries with documents.
        """
        if source is None:
            raise DataError("the reranking task has no rows of its own: give a file or folder as `data`")
        rows = read_split(source, split)
        read_rankings(rows)
        return rows

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode every query with each of its documents as one feature, truncated to 128 tokens unless said.

        Raises:
            DataError: as `read_rankings`.
            LabelError: `labels` is set; what a score is of, only the model's training tells.
        """
        if labels:
            raise LabelError("the reranking task has no labels for single pairs: choose a task that has")
        return _encoded(read_rankings(rows), tokenizer, max_length)

    def training_rows(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
    ) -> list[Features]:
        """Encode every query with each of its documents, with `labels`: how relevant it is, from 0 to 1 for the most.

        Raises:
            DataError: as `read_rankings`, or a relevance below 0.
        """
        asked = read_rankings(rows)
        relevance = [value for each in asked for value in each.relevance]
        if min(relevance, default=0) < 0:
            raise DataError(f"a relevance is {min(relevance):g}: give 0 for what is not relevant, more for the rest")
        most = max([1.0, *relevance])
        pairs = _encoded(asked, tokenizer, max_length)
        return [{**pair, "labels": value / most} for pair, value in zip(pairs, relevance, strict=True)]

    def training_batch(self, features: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Pad pairs to one batch, with `labels`, `(pairs,)`."""
        return pad(features, tokenizer, "cpu") | pad_labels(features, "cpu")

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Compute the binary cross-entropy of scores and relevance, as sentence-transformers trains cross-encoders.

        Raises:
            UnsupportedModel: a model that gives no score for a pair.
        """
        inputs = {name: values for name, values in batch.items() if name not in LABELS}
        scores = _scores(model(**inputs))
        return functional.binary_cross_entropy_with_logits(scores, batch["labels"].to(scores.dtype))

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
        """Judge a model by `ndcg_at_10` and `mrr` over queries, or `spearman` over pairs; `dense` is not needed.

        Queries without a relevant document, or without another, do not count.

        Raises:
            UnsupportedModel: a model that gives no score for a pair.
            DataError: as `read_rankings`, or no query counts.
        """
        asked = read_rankings(rows)
        features = _encoded(asked, tokenizer, max_length)
        scores = np.asarray(torch.stack(outputs_by_row(model, tokenizer, features, _read, progress=progress)["scores"]))
        by_query = np.split(scores, np.cumsum([len(each.documents) for each in asked])[:-1])
        if all(len(each.documents) == 1 for each in asked):
            return {"spearman": metric(statistics.spearman, scores, [each.relevance[0] for each in asked])}
        found = [_placed(each, own) for each, own in zip(asked, by_query, strict=True) if _counts(each)]
        if not found:
            raise DataError("no query has both a relevant document and another: give positives and negatives")
        return ranked(found)


def _counts(asked: Ranking) -> bool:
    return max(asked.relevance, default=0) > min(asked.relevance, default=0) and max(asked.relevance) > 0


def _placed(asked: Ranking, scores: Array) -> tuple[Array, Sequence[float]]:
    places = [asked.documents.index(text) for text in asked.relevant]
    return ranks(scores, places), [*asked.relevant.values()]


def _encoded(asked: Sequence[Ranking], tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> list[Features]:
    pairs = [(each.query, document) for each in asked for document in each.documents]
    return encode_texts([[query for query, _ in pairs], [document for _, document in pairs]], tokenizer, max_length)


def _read(output: Any, _: Batch) -> Mapping[str, Tensor]:
    return {"scores": _scores(output).double()}


def _scores(output: Any) -> Tensor:
    if "logits" not in output or output["logits"].ndim != 2 or output["logits"].shape[1] > MOST_OUTPUTS:
        raise UnsupportedModel("the model gives no score for a pair: a classifier with one or two outputs does")
    logits: Tensor = output["logits"]
    return logits[:, -1] - (logits[:, 0] if logits.shape[1] > 1 else 0)


PROVIDES = {"reranking": Reranking()}
