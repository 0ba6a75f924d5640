"""Sentence embeddings, judged on pairs of texts that belong together.

Pairs with a `score` (or `label`): Spearman's correlation of cosine similarity with it. Pairs without: find each
pair's `second` among all distinct ones from its `first`; recall at 1 and mean reciprocal rank. With the dense model
given, also the cosine between both models' embeddings of the same text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.batches import pad
from trimformer.data.columns import choose_columns, numbers, texts
from trimformer.data.encoding import encode_texts
from trimformer.data.files import read_split
from trimformer.data.labels import pad_labels
from trimformer.data.rows import LABELS, Batch, Features, Split
from trimformer.errors import DataError, LabelError, UnsupportedModel
from trimformer.judging.evaluation import outputs_by_row
from trimformer.judging.losses import contrastive_loss, ranking_loss
from trimformer.judging.metrics import Metrics
from trimformer.judging.statistics import Array, mean, metric, spearman
from trimformer.model.pooling import Pooling, pooling_of, read_prompts, with_prompt
from trimformer.observing.predictions import embed
from trimformer.progress import Progress

PAIR_COLUMNS = (("first", "second"), ("sentence1", "sentence2"))
SCORE_COLUMNS = ("score", "label")
SIMILARITIES_AT_ONCE = 4_000_000
TIE = 1e-6
"""Largest difference of cosines that count as equal: float32 rounding must not decide a rank."""


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The task of sentence embeddings: texts that belong together shall have embeddings that are close."""

    description: str = "sentence embeddings on pairs: recall@1 and MRR, or Spearman's correlation with a score"
    auto_class: str = "AutoModel"

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the pairs of one split from a folder or one file.

        Raises:
            DataError: no source, or rows that cannot be read or are no pairs of texts.
        """
        if source is None:
            raise DataError("the embedding task has no rows of its own: give a file or folder of pairs as `data`")
        rows = read_split(source, split)
        choose_columns(rows, PAIR_COLUMNS, source)
        return rows

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode every distinct text of the pairs once, truncated to 128 tokens unless said.

        Raises:
            DataError: a column is missing, or holds something else than text.
            LabelError: `labels` is set; a text alone has none.
        """
        if labels:
            raise LabelError("the embedding task has no labels for single texts: choose a task that has")
        first, second = _pairs(rows, tokenizer)
        return encode_texts([list(dict.fromkeys([*first, *second]))], tokenizer, max_length)

    def training_rows(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
    ) -> list[Features]:
        """Encode every pair: its first text, with the second one under `second` and the score, if any, as `labels`.

        Raises:
            DataError: a column is missing or holds something else than text, or a score is no finite number.
        """
        features = [encode_texts([list(side)], tokenizer, max_length) for side in _pairs(rows, tokenizer)]
        scores = _scores(rows)
        pairs: list[Features] = [{**first, "second": second} for first, second in zip(*features, strict=True)]
        if scores is None:
            return pairs
        return [{**pair, "labels": score} for pair, score in zip(pairs, scores.tolist(), strict=True)]

    def training_batch(self, features: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Pad pairs to one batch of `(2 * pairs, length)`, first texts, then second ones; and `labels`, `(pairs,)`."""
        inputs = pad([*features, *(row["second"] for row in features)], tokenizer, "cpu")
        return inputs | pad_labels(features, "cpu")

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Compute the loss of pairs against the others of the batch, or, where they have scores, against their order.

        Raises:
            UnsupportedModel: a model that does not return hidden states.
        """
        inputs = {name: values for name, values in batch.items() if name not in LABELS}
        first, second = _read(pooling_of(model), model(**inputs), inputs)["embedding"].chunk(2)
        if "labels" in batch:
            return ranking_loss(first, second, batch["labels"])
        return contrastive_loss(first, second)

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
        """Judge a model by pairs: `spearman` where they have scores, else `recall_at_1` and `mrr`.

        Where `dense` is given, also by `cosine_to_dense`, over distinct texts.

        Raises:
            UnsupportedModel: a model that does not return hidden states.
            DataError: as `encode`, or a score that is no finite number.
        """
        first, second = _pairs(rows, tokenizer)
        position = {text: index for index, text in enumerate(dict.fromkeys([*first, *second]))}
        scores = _scores(rows)
        features = self.encode(rows, tokenizer, max_length)
        embeddings = _embed(model, tokenizer, features, progress)
        queries = torch.tensor([position[text] for text in first])
        targets = torch.tensor([position[text] for text in second])
        if scores is None:
            ranks = target_ranks(embeddings, queries, targets)
            found = {"recall_at_1": metric(mean, ranks == 1), "mrr": metric(mean, 1 / ranks)}
        else:
            found = {"spearman": metric(spearman, _cosines(embeddings[queries], embeddings[targets]), scores)}
        if dense is not None:
            same_text = _cosines(embeddings, _embed(dense, tokenizer, features, progress))
            found["cosine_to_dense"] = metric(mean, same_text)
        return found


def target_ranks(embeddings: Tensor, queries: Tensor, targets: Tensor) -> Array:
    """Rank each query's target among all distinct targets by cosine, 1 the nearest; ties count against it: `(pairs,)`.

    Args:
        embeddings: `(texts, width)`, of length one each.
        queries: `(pairs,)`, indices of texts.
        targets: `(pairs,)`, indices of texts.
    """
    candidates, column = targets.unique(return_inverse=True)
    ranks = []
    rows_at_once = max(1, SIMILARITIES_AT_ONCE // len(candidates))
    for chosen, own in zip(queries.split(rows_at_once), column.split(rows_at_once), strict=True):
        similarity = embeddings[chosen] @ embeddings[candidates].T
        ranks.append((similarity >= similarity.gather(1, own[:, None]) - TIE).sum(1))
    return np.asarray(torch.cat(ranks))


def _pairs(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> tuple[Sequence[str], Sequence[str]]:
    """Read both sides of the pairs, with the prompts that the model's files ask for.

    Without scores the first side searches the second one; with them both are alike.
    """
    first, second = (texts(rows, column) for column in choose_columns(rows, PAIR_COLUMNS))
    prompts = read_prompts(tokenizer.name_or_path)
    if any(name in rows.column_names for name in SCORE_COLUMNS):
        return with_prompt(first, prompts.other), with_prompt(second, prompts.other)
    return with_prompt(first, prompts.query), with_prompt(second, prompts.document)


def _scores(rows: Dataset) -> Array | None:
    scored = [name for name in SCORE_COLUMNS if name in rows.column_names]
    return numbers(rows, scored[0]) if scored else None


def _cosines(first: Tensor, second: Tensor) -> Array:
    if first.shape != second.shape:
        raise UnsupportedModel(f"embeddings have {first.shape[1]} and {second.shape[1]} numbers: give the dense model")
    return np.asarray((first * second).sum(-1))


def _embed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, features: list[Features], progress: Progress | None
) -> Tensor:
    read = partial(_read, pooling_of(model))
    return torch.stack(outputs_by_row(model, tokenizer, features, read, progress=progress)["embedding"])


def _read(pooling: Pooling, output: Any, batch: Batch) -> Mapping[str, Tensor]:
    if "last_hidden_state" not in output:
        raise UnsupportedModel("the model returns no hidden states: load it with AutoModel, without a task head")
    return {"embedding": embed(output["last_hidden_state"], batch["attention_mask"], pooling)}


PROVIDES = {"embedding": Embedding()}
