"""Sentence embeddings, judged by retrieval, or on pairs of texts that belong together.

Queries with lists of relevant documents: each is searched among all documents of the rows; nDCG, recall, MRR.
Pairs with a `score` (or `label`): Spearman's correlation of cosine similarity with it. Pairs without: find each
pair's `second` among all distinct ones from its `first`; recall at 1 and mean reciprocal rank. With the dense model
given, also the cosine between both models' embeddings of the same text, and how well the smaller model's queries find
documents that the dense model has embedded: who has an index of them need not make it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.batches import pad
from trimformer.data.columns import choose_columns, has_columns, numbers, texts
from trimformer.data.encoding import encode_texts
from trimformer.data.files import read_rows, read_split
from trimformer.data.labels import pad_labels
from trimformer.data.rows import LABELS, Batch, Features, Split
from trimformer.errors import DataError, LabelError, UnsupportedModel
from trimformer.judging.evaluation import outputs_by_row
from trimformer.judging.losses import contrastive_loss, ranking_loss
from trimformer.judging.metrics import Metric, Metrics
from trimformer.judging.ranking import LISTS, Ranking, is_collection, ranked, ranks, read_collection, read_rankings
from trimformer.judging.statistics import Array, mean, metric, spearman
from trimformer.model.pooling import Pooling
from trimformer.model.sentence_files import pooling_of, read_prompts, with_prompt
from trimformer.observing.predictions import embed
from trimformer.progress import Progress

PAIR_COLUMNS = (("first", "second"), ("sentence1", "sentence2"))
SCORE_COLUMNS = ("score", "label")
RECALL_AT = (1, 10)
SEARCHED = ("ndcg_at_10", "recall_at_1")
"""Metrics that are also given for the smaller model's queries among documents as the dense model embeds them."""
IN_DENSE_INDEX = "_in_dense_index"
RELATIVES = ("cosine_to_dense", *(name + IN_DENSE_INDEX for name in SEARCHED))
SIMILARITIES_AT_ONCE = 4_000_000
TIE = 1e-6
"""Largest difference of cosines that count as equal: float32 rounding must not decide a rank."""


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The task of sentence embeddings: texts that belong together shall have embeddings that are close."""

    description: str = "sentence embeddings: retrieval by nDCG, recall and MRR, or Spearman's correlation with a score"
    auto_class: str = "AutoModel"
    metrics: tuple[str, ...] = ("ndcg_at_10", "recall_at_1", "recall_at_10", "mrr", "spearman", *RELATIVES)

    def fits(self, source: str) -> bool:
        """Tell whether a source has pairs, or queries with documents."""
        if is_collection(source):
            return True
        rows = read_rows(source, "validation")
        return has_columns(rows, PAIR_COLUMNS) or _is_retrieval(rows)

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the pairs of one split from a folder or one file.

        Raises:
            DataError: no source, or rows that cannot be read or are no pairs of texts.
        """
        if source is None:
            raise DataError("the embedding task has no rows of its own: give a file or folder of pairs as `data`")
        if is_collection(source):
            return read_collection(source, split)
        rows = read_split(source, split)
        if _is_retrieval(rows):
            read_rankings(rows)
        else:
            choose_columns(rows, PAIR_COLUMNS)
        return rows

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode every distinct text of the pairs or queries once, truncated to 128 tokens unless said.

        Raises:
            DataError: a column is missing, or holds something else than text.
            LabelError: `labels` is set; a text alone has none.
        """
        if labels:
            raise LabelError("the embedding task has no labels for single texts: choose a task that has")
        return encode_texts([_texts(rows, tokenizer)], tokenizer, max_length)

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

        By queries with their documents: `ndcg_at_10`, `recall_at_1`, `recall_at_10`, `mrr`. Where `dense` is given,
        also by `cosine_to_dense`, over distinct texts, and, if there are no scores, by how well its queries find texts
        in an index of the dense model's: `recall_at_1_in_dense_index`, and `ndcg_at_10_in_dense_index`.

        Raises:
            UnsupportedModel: a model that does not return hidden states.
            DataError: as `encode`, or a score that is no finite number.
        """
        known = _texts(rows, tokenizer)
        position = {text: index for index, text in enumerate(known)}
        features = encode_texts([known], tokenizer, max_length)
        embeddings = _embed(model, tokenizer, features, progress)
        if _is_retrieval(rows):
            search = partial(_retrieved, _prompted(read_rankings(rows), tokenizer), position, embeddings)
        else:
            first, second = (torch.tensor([position[text] for text in side]) for side in _pairs(rows, tokenizer))
            search = partial(_of_pairs, embeddings, first, second, _scores(rows))
        found = search(embeddings)
        if dense is not None:
            known_before = _embed(dense, tokenizer, features, progress)
            found["cosine_to_dense"] = metric(mean, _cosines(embeddings, known_before))
            found |= {name + IN_DENSE_INDEX: each for name, each in search(known_before).items() if name in SEARCHED}
        return found


def target_ranks(embeddings: Tensor, queries: Tensor, targets: Tensor, index: Tensor) -> Array:
    """Rank each query's target among all distinct targets by cosine, 1 the nearest; ties count against it: `(pairs,)`.

    Args:
        embeddings: `(texts, width)`, of length one each, of queries.
        queries: `(pairs,)`, indices of texts.
        targets: `(pairs,)`, indices of texts.
        index: as `embeddings`, of targets.
    """
    candidates, column = targets.unique(return_inverse=True)
    found = []
    rows_at_once = max(1, SIMILARITIES_AT_ONCE // len(candidates))
    for chosen, own in zip(queries.split(rows_at_once), column.split(rows_at_once), strict=True):
        similarity = embeddings[chosen] @ index[candidates].T
        found.append((similarity >= similarity.gather(1, own[:, None]) - TIE).sum(1))
    return np.asarray(torch.cat(found))


def _pairs(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> tuple[Sequence[str], Sequence[str]]:
    """Read both sides of the pairs, with the prompts that the model's files ask for.

    Without scores the first side searches the second one; with them both are alike. Of queries with their documents,
    every relevant one is a pair with its query.
    """
    if _is_retrieval(rows):
        asked = [each for each in _prompted(read_rankings(rows), tokenizer) if each.query]
        pairs = [(each.query, text) for each in asked for text in each.relevant]
        return [query for query, _ in pairs], [document for _, document in pairs]
    first, second = (texts(rows, column) for column in choose_columns(rows, PAIR_COLUMNS))
    prompts = read_prompts(tokenizer.name_or_path)
    if any(name in rows.column_names for name in SCORE_COLUMNS):
        return with_prompt(first, prompts.other), with_prompt(second, prompts.other)
    return with_prompt(first, prompts.query), with_prompt(second, prompts.document)


def _prompted(asked: Sequence[Ranking], tokenizer: PreTrainedTokenizerBase) -> list[Ranking]:
    """Put the prompts that the model's files ask for before queries and documents."""
    prompts = read_prompts(tokenizer.name_or_path)
    return [
        replace(
            each,
            query=each.query and prompts.query + each.query,
            documents=tuple(with_prompt(each.documents, prompts.document)),
        )
        for each in asked
    ]


def _texts(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """List every distinct text of some rows once, with its prompt."""
    if not _is_retrieval(rows):
        return list(dict.fromkeys(text for side in _pairs(rows, tokenizer) for text in side))
    asked = _prompted(read_rankings(rows), tokenizer)
    queries = [each.query for each in asked if each.query]
    return list(dict.fromkeys([*queries, *(document for each in asked for document in each.documents)]))


def _is_retrieval(rows: Dataset) -> bool:
    return has_columns(rows, LISTS) and not has_columns(rows, PAIR_COLUMNS)


def _of_pairs(
    embeddings: Tensor, queries: Tensor, targets: Tensor, scores: Array | None, index: Tensor
) -> dict[str, Metric]:
    if scores is not None:
        return {"spearman": metric(spearman, _cosines(embeddings[queries], index[targets]), scores)}
    places = target_ranks(embeddings, queries, targets, index)
    return {"recall_at_1": metric(mean, places == 1), "mrr": metric(mean, 1 / places)}


def _retrieved(
    asked: Sequence[Ranking], position: Mapping[str, int], embeddings: Tensor, index: Tensor
) -> dict[str, Metric]:
    """Search every query that has a relevant document among the documents of all, which `index` embeds."""
    corpus = {
        document: place for place, document in enumerate(dict.fromkeys(d for each in asked for d in each.documents))
    }
    candidates = index[[position[document] for document in corpus]]
    counted = [each for each in asked if each.query and each.relevant]
    if not counted:
        raise DataError("no row has both a query and a relevant document: give some that do")
    found: list[tuple[Array, list[float]]] = []
    rows_at_once = max(1, SIMILARITIES_AT_ONCE // len(corpus))
    for start in range(0, len(counted), rows_at_once):
        chosen = counted[start : start + rows_at_once]
        similarities = np.asarray(embeddings[[position[each.query] for each in chosen]] @ candidates.T)
        for each, scores in zip(chosen, similarities, strict=True):
            found.append((ranks(scores, [corpus[d] for d in each.relevant], TIE), [*each.relevant.values()]))
    return ranked(found, RECALL_AT)


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
