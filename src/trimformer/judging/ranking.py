"""Queries with the documents that answer them: read from rows, and how well a model ranks them.

A document's rank is one more than the number of others that are not scored lower: ties count against the model.

Source: nDCG with linear gains (Järvelin and Kekäläinen, 2002), as trec_eval and scikit-learn compute it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from trimformer.data.columns import choose_columns, has_columns, numbers, row_names, texts
from trimformer.data.files import read_rows, split_rows
from trimformer.data.rows import Split
from trimformer.errors import DataError
from trimformer.judging import statistics
from trimformer.judging.metrics import Metric
from trimformer.judging.statistics import Array, metric

QUERY = ("query", "question", "anchor")
RELEVANT = ("positives", "positive", "pos")
OTHERS = ("negatives", "negative", "neg")
DOCUMENT = ("passage", "document", "answer", "context", "text")
RELEVANCE = ("relevance", "score", "label")
LISTS = tuple((query, relevant) for query in QUERY for relevant in RELEVANT)
PAIRS = tuple((query, document, score) for query in QUERY for document in DOCUMENT for score in RELEVANCE)
CUTOFF = 10
CORPUS, QUERIES = "corpus", "queries"


@dataclass(frozen=True)
class Ranking:
    """A query with documents, and how relevant each is: above 0, or 0 where it is not."""

    query: str
    """Empty for documents that no query asks for."""
    documents: tuple[str, ...]
    relevance: tuple[float, ...]

    @property
    def relevant(self) -> dict[str, float]:
        """Its relevant documents, with how relevant each is."""
        return {text: much for text, much in zip(self.documents, self.relevance, strict=True) if much > 0}


def has_rankings(rows: Dataset) -> bool:
    """Tell whether rows have queries with lists of documents, or with one document and its relevance each."""
    return has_columns(rows, (*LISTS, *PAIRS))


def read_rankings(rows: Dataset) -> list[Ranking]:
    """Read queries with their documents: lists by query, or one document with its relevance a row.

    Raises:
        DataError: no such columns, or rows with something else than texts and numbers.
    """
    columns = choose_columns(rows, (*LISTS, *PAIRS))
    return _of_lists(rows, *columns) if columns in LISTS else _of_pairs(rows, columns)


def _of_lists(rows: Dataset, query: str, relevant: str) -> list[Ranking]:
    others = next((name for name in OTHERS if name in rows.column_names), None)
    found = []
    for where, row in zip(row_names(rows), rows, strict=True):
        good, bad = (_documents(row[name], where, name) if name else [] for name in (relevant, others))
        told = row.get(RELEVANCE[0])
        given = [1.0] * len(good) if told is None else told if isinstance(told, list) else [told]
        asked = row[query]
        if len(given) != len(good) or not all(map(_is_number, given)) or not isinstance(asked, str | None):
            raise DataError(
                f"{where}: give {query!r} as text, and as many numbers in {RELEVANCE[0]!r} as texts in {relevant!r}"
            )
        every = dict.fromkeys(bad, 0.0) | dict(zip(good, map(float, given), strict=True))
        found.append(Ranking(asked or "", tuple(every), tuple(every.values())))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _documents(value: Any, where: str, column: str) -> list[str]:
    found = [value] if isinstance(value, str) else value or []
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise DataError(f"{where}: {column!r} is {value!r:.60}, neither a text nor a list of texts")
    return found


def _of_pairs(rows: Dataset, columns: Sequence[str]) -> list[Ranking]:
    query, document, score = columns
    relevance = numbers(rows, score).tolist()
    grouped: dict[str, dict[str, float]] = {}
    for asked, text, value in zip(texts(rows, query), texts(rows, document), relevance, strict=True):
        grouped.setdefault(asked, {})[text] = value
    return [Ranking(asked, tuple(known), tuple(known.values())) for asked, known in grouped.items()]


def is_collection(source: str) -> bool:
    """Tell whether a folder has a corpus and queries in files of their own, as BEIR's do."""
    return Path(source).is_dir() and all(any(Path(source).glob(f"{name}.*")) for name in (CORPUS, QUERIES))


def read_collection(source: str, split: Split) -> Dataset:
    """Read one row a query from a folder of `corpus`, `queries` and `relevance` (or `qrels`), divided by queries.

    Of a downloaded BEIR folder, whose `qrels` is a folder itself, `qrels/test.tsv` is read.

    Documents go with the queries that they are relevant to, first those to judge by; the others are divided at random.

    Raises:
        DataError: a file or column is missing, or a relevance names what is not there.
    """
    folder = Path(source)
    corpus, queries = _by_id(folder, CORPUS), _by_id(folder, QUERIES)
    asked: dict[str, dict[str, float]] = {}
    file = _file(folder, "relevance", "qrels", "qrels/test")
    rows = read_rows(str(file), "train")
    names = [("query-id", "corpus-id"), ("query_id", "corpus_id"), ("query", "document")]
    query, document = choose_columns(rows, names)
    scores = numbers(rows, choose_columns(rows, [("score",), ("relevance",)])[0])
    for where, who, what, score in zip(row_names(rows), rows[query], rows[document], scores, strict=True):
        if str(who) not in queries or str(what) not in corpus:
            raise DataError(f"{where}: query {who!r} or document {what!r} is not there; mend the row")
        if score > 0:
            asked.setdefault(queries[str(who)], {})[corpus[str(what)]] = float(score)
    return _divided(asked, list(dict.fromkeys(corpus.values())), source)[split]


def _divided(asked: Mapping[str, Mapping[str, float]], corpus: Sequence[str], source: str) -> dict[Split, Dataset]:
    if not asked:
        raise DataError(f"{source}: no query has a relevant document; give relevance above 0")
    rows = [{"query": text, "positives": [*known], "relevance": [*known.values()]} for text, known in asked.items()]
    wanted = {text for known in asked.values() for text in known}
    rest = [{"query": "", "positives": [text], "relevance": [0.0]} for text in corpus if text not in wanted]
    parts = [split_rows(Dataset.from_list(part)) for part in (rows, rest) if len(part) > 1]
    judged, calibrated = ([row for part in parts for row in part[name]] for name in ("validation", "train"))
    return {"train": Dataset.from_list(calibrated), "validation": Dataset.from_list(judged)}


def _by_id(folder: Path, name: str) -> dict[str, str]:
    file = _file(folder, name)
    rows = read_rows(str(file), "train")
    key, _ = choose_columns(rows, [("_id", "text"), ("id", "text")])
    titles = rows["title"] if "title" in rows.column_names else [""] * len(rows)
    bodies = texts(rows, "text")
    return {
        str(own): f"{title or ''} {body}".strip() for own, title, body in zip(rows[key], titles, bodies, strict=True)
    }


def _file(folder: Path, *names: str) -> Path:
    found = [file for name in names for file in sorted(folder.glob(f"{name}.*"))]
    if not found:
        raise DataError(f"{folder} has no file {' or '.join(names)}: add one, such as {names[0]}.jsonl")
    return found[0]


def ranks(scores: Array, places: Sequence[int], tie: float = 0.0) -> Array:
    """Rank some of the scored documents, 1 the best: `(places,)`; scores that differ by `tie` are ties."""
    own = scores[list(places)]
    return np.asarray((scores[None, :] >= own[:, None] - tie).sum(1))


def ranked(found: Sequence[tuple[Array, Sequence[float]]], cutoffs: Sequence[int] = ()) -> dict[str, Metric]:
    """Judge rankings by the ranks of each query's relevant documents, with their relevance.

    Returns:
        `ndcg_at_10`, `recall_at_…` of the cutoffs, and `mrr`, the mean over queries of one over the best rank.
    """
    columns = {"ndcg_at_10": [_ndcg(*each) for each in found]}
    columns |= {f"recall_at_{cutoff}": [float((own <= cutoff).mean()) for own, _ in found] for cutoff in cutoffs}
    columns |= {"mrr": [float(1 / own.min()) for own, _ in found]}
    return {name: metric(statistics.mean, values) for name, values in columns.items()}


def _ndcg(own: Array, relevance: Sequence[float]) -> float:
    gains = np.asarray(relevance)
    ideal = np.sort(gains)[::-1][:CUTOFF]
    counted = own <= CUTOFF
    best = (ideal / np.log2(np.arange(2, len(ideal) + 2))).sum()
    return float((gains[counted] / np.log2(1 + own[counted])).sum() / best)
