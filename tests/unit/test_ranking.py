"""Retrieval and reranking: rows in every form, ranks by hand, and nDCG as scikit-learn computes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conftest import TinyBert
from trimformer import plugins
from trimformer.errors import DataError, UnsupportedModel
from trimformer.judging.ranking import Ranking, ranked, ranks, read_collection, read_rankings
from trimformer.judging.task import chosen_task
from trimformer.model import checkpoint

RERANKING, EMBEDDING = (plugins.load("tasks", name) for name in ("reranking", "embedding"))
DOCUMENTS = ["the red cat", "a dog saw the house", "old city", "who built the river", "what is new", "tree"]
ROWS = Dataset.from_dict(
    {
        "query": ["red", "old", "dog"],
        "positives": [[DOCUMENTS[0]], [DOCUMENTS[2], DOCUMENTS[5]], [DOCUMENTS[1]]],
        "negatives": [DOCUMENTS[1:4], DOCUMENTS[3:5], [DOCUMENTS[4]]],
    }
)
BOTH = Ranking("q", ("good", "best", "bad"), (1.0, 2.0, 0.0))


class TestRows:
    @pytest.mark.parametrize(
        "columns",
        [
            {"query": ["q"], "positives": [["good", "best"]], "relevance": [[1, 2]], "negatives": [["bad"]]},
            {"query": ["q"] * 3, "passage": ["good", "best", "bad"], "score": [1, 2, 0]},
            {"question": ["q"] * 3, "document": ["good", "best", "bad"], "label": [1.0, 2.0, 0.0]},
        ],
    )
    def test_both_forms(self, columns: dict[str, Any]) -> None:
        (found,) = read_rankings(Dataset.from_dict(columns))
        assert dict(zip(found.documents, found.relevance, strict=True)) == {"good": 1, "best": 2, "bad": 0}
        assert found.relevant == BOTH.relevant

    @pytest.mark.parametrize(
        ("columns", "said"),
        [
            ({"query": ["q"], "positives": [[1]]}, "row 1: 'positives' is .*neither a text nor a list"),
            (
                {"query": ["q"], "positives": [["a"]], "relevance": [[1, 2]]},
                "row 1: give 'query' as text, and as many num",
            ),
            ({"query": ["q"], "positives": [["a", "b"]], "relevance": [[1, None]]}, "row 1: give .* as many numbers"),
            ({"query": ["q"], "positives": [["a"]], "relevance": [["x"]]}, "row 1: give .* as many numbers"),
            ({"query": ["q"], "positives": [["a"]], "relevance": [[float("inf")]]}, "row 1: give .* as many numbers"),
            ({"query": ["q"], "passage": ["a"], "score": ["x"]}, "row 1: 'score' is 'x'"),
        ],
    )
    def test_wrong_rows(self, columns: dict[str, Any], said: str) -> None:
        with pytest.raises(DataError, match=said):
            read_rankings(Dataset.from_dict(columns))

    def test_a_relevance_that_is_no_list_is_of_the_one_document(self) -> None:
        columns = {"query": ["q", "q", "q"], "positive": ["a", "b", "c"], "relevance": [0, 2, None]}
        found = read_rankings(Dataset.from_dict(columns))
        assert [each.relevance for each in found] == [(0.0,), (2.0,), (1.0,)]

    def test_a_folder_as_beir_has_it(self, tmp_path: Path) -> None:
        write(tmp_path / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": str(n)} for n in range(10)])
        write(tmp_path / "queries.jsonl", [{"_id": f"q{n}", "text": f"question {n}"} for n in range(10)])
        (tmp_path / "qrels").mkdir()
        marks = "".join(f"q{n}\td{n}\t1\n" for n in range(5))
        (tmp_path / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{marks}")
        parts = [read_rankings(read_collection(str(tmp_path), split)) for split in ("train", "validation")]
        asked = {each.query for part in parts for each in part if each.query}
        assert asked == {f"question {n}" for n in range(5)}

        write(tmp_path / "corpus.jsonl", [{"_id": "d1", "text": "1"}])
        (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t0\n")
        with pytest.raises(DataError, match="no query has a relevant document"):
            read_collection(str(tmp_path), "train")

    def test_a_folder_without_marks(self, tmp_path: Path) -> None:
        for name in ("corpus", "queries"):
            write(tmp_path / f"{name}.jsonl", [{"_id": "1", "text": "a"}])
        with pytest.raises(DataError, match="has no file relevance or qrels or qrels/test: add one"):
            read_collection(str(tmp_path), "train")

    def test_embedding_reads_pairs_queries_and_collections(self, tmp_path: Path) -> None:
        collection, marks = tmp_path / "collection", [{"query-id": n, "corpus-id": n, "score": 1} for n in range(4)]
        collection.mkdir()
        for name in ("corpus", "queries"):
            texts = [{"_id": n, "text": f"{name} {n}"} for n in range(4)]
            write(collection / f"{name}.jsonl", texts)
        write(collection / "relevance.jsonl", marks)
        write(tmp_path / "queries.jsonl", [{"query": f"{n}", "positives": [f"d{n}"]} for n in range(10)])
        write(tmp_path / "pairs.jsonl", [{"first": f"{n}", "second": f"d{n}"} for n in range(10)])
        columns = {"collection": "relevance", "queries.jsonl": "positives", "pairs.jsonl": "second"}
        for name, column in columns.items():
            assert EMBEDDING.fits(str(tmp_path / name))
            parts = [EMBEDDING.rows(str(tmp_path / name), split) for split in ("train", "validation")]
            assert all(column in part.column_names and len(part) for part in parts), name
        write(tmp_path / "wrong.jsonl", [{"first": "a"}])
        assert not EMBEDDING.fits(str(tmp_path / "wrong.jsonl"))

    def test_a_folder_of_corpus_queries_and_relevance(self, tmp_path: Path) -> None:
        write(tmp_path / "corpus.jsonl", [{"_id": f"d{n}", "title": "T" * (n == 0), "text": str(n)} for n in range(50)])
        write(tmp_path / "queries.jsonl", [{"_id": f"q{n}", "text": f"question {n}"} for n in range(20)])
        marks = [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 2} for n in range(20)]
        write(tmp_path / "relevance.jsonl", [*marks, {"query-id": "q1", "corpus-id": "d3", "score": 0}])
        parts = [read_rankings(read_collection(str(tmp_path), split)) for split in ("train", "validation")]
        for part, asked in zip(parts, (16, 4), strict=True):
            assert sum(bool(each.query) for each in part) == asked
            for each in part:
                text = each.query.removeprefix("question ")
                assert not text or each.relevant == {f"T {text}" if text == "0" else text: 2}
        assert sorted(d for part in parts for each in part for d in each.documents) == sorted(
            ["T 0", *map(str, range(1, 50))]
        )
        write(tmp_path / "relevance.jsonl", [{"query-id": "q1", "corpus-id": "d99", "score": 1}])
        with pytest.raises(DataError, match="row 1: query 'q1' or document 'd99' is not there"):
            read_collection(str(tmp_path), "train")


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("\n".join(map(json.dumps, rows)))


class TestMetrics:
    def test_ties_count_against_the_model(self) -> None:
        assert ranks(np.array([3.0, 1.0, 3.0, 2.0]), [0, 3]).tolist() == [2, 3]
        assert ranks(np.array([1.0, 1.0 - 1e-9]), [0], 1e-6).tolist() == [2]

    def test_ndcg_is_that_of_scikit_learn(self) -> None:
        generator = np.random.default_rng(0)
        for _ in range(20):
            scores, gains = generator.normal(size=30), generator.integers(0, 3, 30)
            places = np.flatnonzero(gains)
            found = ranked([(ranks(scores, places.tolist()), gains[places].tolist())])["ndcg_at_10"].value
            assert found == pytest.approx(ndcg_score([gains], [scores], k=10))

    def test_by_hand(self) -> None:
        found = ranked([(np.array([2, 11]), [1.0, 1.0]), (np.array([1]), [1.0])], (1, 10))
        assert found["recall_at_1"].value == 0.5
        assert found["recall_at_10"].value == 0.75
        assert found["mrr"].value == 0.75


class TestReranking:
    def scores(self, model: Any, tokenizer: Any, query: str, documents: list[str]) -> np.ndarray:
        with torch.no_grad():
            return np.array([float(model(**tokenizer(query, d, return_tensors="pt")).logits[0, -1]) for d in documents])

    @pytest.mark.parametrize("outputs", [1, 2])
    def test_against_the_models_own_scores(
        self, outputs: int, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        model = tiny_bert(num_labels=outputs)
        if outputs == 2:
            model.classifier.weight.data[0] = 0
        found = RERANKING.evaluate(model, tokenizer, ROWS)
        expected, best = [], []
        for row in ROWS:
            documents = row["positives"] + row["negatives"]
            gains = [1] * len(row["positives"]) + [0] * len(row["negatives"])
            scores = self.scores(model, tokenizer, row["query"], documents)
            expected.append(ndcg_score([gains], [scores], k=10))
            best.append(1 / min(1 + (scores > scores[place]).sum() for place in range(len(row["positives"]))))
        assert found["ndcg_at_10"].value == pytest.approx(np.mean(expected))
        assert found["mrr"].value == pytest.approx(np.mean(best))
        assert found["mrr"].sample_size == 3

    def test_pairs_with_scores_are_correlated(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        model = tiny_bert(num_labels=1)
        queries = [f"the {text}" for text in DOCUMENTS]
        rows = Dataset.from_dict({"query": queries, "passage": DOCUMENTS, "score": [0.1, 0.9, 0.3, 0.2, 0.5, 0.7]})
        scores = [self.scores(model, tokenizer, q, [d])[0] for q, d in zip(queries, DOCUMENTS, strict=True)]
        expected = spearmanr(scores, rows["score"]).statistic
        assert RERANKING.evaluate(model, tokenizer, rows)["spearman"].value == pytest.approx(expected)

    def test_what_gives_no_order_is_refused(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        with pytest.raises(UnsupportedModel, match="one or two outputs"):
            RERANKING.evaluate(tiny_bert(num_labels=3), tokenizer, ROWS)
        rows = Dataset.from_dict({"query": ["q"], "positives": [["a", "b"]]})
        with pytest.raises(DataError, match="no query has both"):
            RERANKING.evaluate(tiny_bert(num_labels=1), tokenizer, rows)

    def test_the_rows_choose_it(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
        model = str(checkpoint.write(tiny_bert(num_labels=1), tmp_path / "model", tokenizer=tokenizer))
        write(tmp_path / "queries.jsonl", list(ROWS))
        write(tmp_path / "labelled.jsonl", [{"text": "a", "label": 1.0}])
        assert chosen_task("auto", model, str(tmp_path / "queries.jsonl")) == "reranking"
        assert chosen_task("auto", model, str(tmp_path / "labelled.jsonl")) == "classification"


class TestRetrieval:
    def test_against_a_plain_search(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        model, other = tiny_bert(None), tiny_bert(None, seed=1)

        def vector(text: str, model: PreTrainedModel = model) -> torch.Tensor:
            with torch.no_grad():
                return F.normalize(model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0), dim=-1)

        alone = {"query": [""], "positives": [["a big blue house"]], "negatives": [[]]}
        rows = Dataset.from_dict({name: [*ROWS[name], *values] for name, values in alone.items()})
        found = EMBEDDING.evaluate(model, tokenizer, rows, dense=other)
        assert list(found)[:5] == ["ndcg_at_10", "recall_at_1", "recall_at_10", "mrr", "cosine_to_dense"]
        assert list(found)[5:] == ["ndcg_at_10_in_dense_index", "recall_at_1_in_dense_index"]
        for index, suffix in ((model, ""), (other, "_in_dense_index")):
            corpus = torch.stack([vector(text, index) for text in [*DOCUMENTS, "a big blue house"]])
            ndcg, recall = [], []
            for row in ROWS:
                gains = [int(text in row["positives"]) for text in DOCUMENTS] + [0]
                scores = (corpus @ vector(row["query"])).numpy()
                ndcg.append(ndcg_score([gains], [scores], k=10))
                recall.append(gains[scores.argmax()] / sum(gains))
            assert found["ndcg_at_10" + suffix].value == pytest.approx(np.mean(ndcg), abs=1e-6)
            assert found["recall_at_1" + suffix].value == pytest.approx(np.mean(recall))
        assert found["recall_at_10"].value == 1
        assert found["ndcg_at_10"].sample_size == 3
        assert len(EMBEDDING.encode(rows, tokenizer)) == 3 + 7
        assert len(EMBEDDING.training_rows(rows, tokenizer)) == 4
