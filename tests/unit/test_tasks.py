"""Each task's own rules: columns and labels, windows and answers, ranks, and the distance to the dense model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerBase,
)

from conftest import TinyBert, build_tokenizer
from trimformer import plugins
from trimformer.errors import DataError, UnsupportedModel
from trimformer.judging import classification
from trimformer.tasks import embedding, glue, text

SHARED = Path(__file__).parents[3] / "shared"
SENTENCES = ["the red cat", "a dog saw the house", "old city", "who built the big green river", "what is new", "tree"]
PAIRS = {"sentence1": SENTENCES, "sentence2": SENTENCES[::-1]}


def save(folder: Path, rows: list[dict[str, object]], name: str = "validation.jsonl") -> str:
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


class TestGlue:
    def test_all_nine_tasks_are_there(self) -> None:
        nine = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "mnli_mismatched", "qnli", "rte", "wnli"}
        assert nine <= set(plugins.names("tasks"))
        first = {name: next(iter(plugins.load("tasks", name).statistics)) for name in nine}
        assert {name: metric for name, metric in first.items() if metric != "accuracy"} == {
            "cola": "matthews",
            "stsb": "spearman",
        }

    @pytest.mark.parametrize("name", ["mrpc", "stsb"])
    def test_metrics_equal_the_models_own_predictions(
        self, name: str, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        task = glue.PROVIDES[name]
        model = tiny_bert(num_labels=task.num_labels)
        rows = Dataset.from_dict({**PAIRS, "label": [0, 1, 1, 0, 1, 0]})
        inputs = tokenizer(PAIRS["sentence1"], PAIRS["sentence2"], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits
        found = task.evaluate(model, tokenizer, rows)
        if name == "mrpc":
            assert found["accuracy"].value == np.mean(logits.argmax(-1).numpy() == rows["label"])
            assert list(found) == ["accuracy", "f1"]
        else:
            assert found["spearman"].value == pytest.approx(
                scipy.stats.spearmanr(logits[:, 0], rows["label"]).statistic
            )
            assert list(found) == ["spearman", "pearson"]

    def test_classes_named_in_another_order_are_matched_by_name(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        task = glue.PROVIDES["mnli"]
        rows = Dataset.from_dict({"premise": SENTENCES, "hypothesis": SENTENCES, "label": [0] * 6})
        model = tiny_bert(num_labels=3)
        model.classifier.bias.data[2] = 1e3
        assert task.evaluate(model, tokenizer, rows)["accuracy"].value == 0
        model.config.id2label = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
        assert task.evaluate(model, tokenizer, rows)["accuracy"].value == 1

    def test_distilbert_without_token_types(self) -> None:
        tokenizer = build_tokenizer(model_input_names=["input_ids", "attention_mask"])
        config = DistilBertConfig(vocab_size=len(tokenizer), dim=32, n_layers=2, n_heads=4, hidden_dim=48)
        model = DistilBertForSequenceClassification(config)
        rows = Dataset.from_dict({"sentence": SENTENCES, "label": [0, 1, 1, 0, 1, 0]})
        assert glue.PROVIDES["sst2"].evaluate(model, tokenizer, rows)["accuracy"].sample_size == 6
        assert "token_type_ids" not in glue.PROVIDES["sst2"].encode(rows, tokenizer)[0]
        assert model.training

    @pytest.mark.parametrize(("name", "columns"), [("qqp", "question1"), ("mnli", "premise"), ("qnli", "question")])
    def test_pairs_may_be_called_sentence1_and_sentence2(
        self, name: str, columns: str, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        task = glue.PROVIDES[name]
        assert task.text_columns[0] == columns
        own = dict(zip(task.text_columns, PAIRS.values(), strict=True))
        assert task.encode(Dataset.from_dict(PAIRS), tokenizer) == task.encode(Dataset.from_dict(own), tokenizer)

    def test_wrong_models_are_refused(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = Dataset.from_dict({"sentence": SENTENCES, "label": [0, 1, 1, 0, 1, 0]})
        task = glue.PROVIDES["sst2"]
        with pytest.raises(UnsupportedModel, match="3 labels, but GLUE's sst2 needs 2"):
            task.evaluate(tiny_bert(num_labels=3), tokenizer, rows)
        for head in (None, "MaskedLM"):
            with pytest.raises(UnsupportedModel, match="does not classify sequences"):
                task.evaluate(tiny_bert(head), tokenizer, rows)

    def test_validation_rows_are_checked_and_train_rows_need_no_labels(self, tmp_path: Path) -> None:
        task = glue.PROVIDES["sst2"]
        save(tmp_path, [{"sentence": "a"}, {"sentence": "b"}], "train.jsonl")
        save(tmp_path, [{"sentence": "c", "label": 0}, {"sentence": "d", "label": -1}])
        assert task.rows(str(tmp_path), "train").column_names == ["sentence"]
        with pytest.raises(DataError, match=r"row 2.*unlabelled"):
            task.rows(str(tmp_path), "validation")
        with pytest.raises(DataError, match="no column 'sentence1' \\+ 'sentence2'"):
            glue.PROVIDES["mrpc"].rows(str(tmp_path), "train")

    def test_hub_rows_are_asked_by_the_right_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def read_hub(*name: str) -> Dataset:
            asked.append(name)
            return Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "label": [2]})

        monkeypatch.setattr(classification, "read_hub", read_hub)
        glue.PROVIDES["mnli"].rows(None, "validation")
        glue.PROVIDES["mnli_mismatched"].rows(None, "validation")
        glue.PROVIDES["mnli_mismatched"].rows(None, "train")
        names = ["validation_matched", "validation_mismatched", "train"]
        assert asked == [("nyu-mll/glue", "mnli", name) for name in names]


class TestEmbedding:
    def test_ranks_by_hand_with_ties_counted_against(self) -> None:
        vectors = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.1]]), dim=-1)
        queries, targets = torch.tensor([0, 0, 2]), torch.tensor([1, 2, 2])
        assert embedding.target_ranks(vectors, queries, targets, vectors).tolist() == [1, 2, 1]
        everything = torch.tensor([1, 2, 3])
        assert embedding.target_ranks(vectors, torch.tensor([0, 0, 0]), everything, vectors).tolist() == [2, 3, 2]
        alike = F.normalize(torch.ones(4, 3) + 1e-8 * torch.randn(4, 3), dim=-1)
        assert embedding.target_ranks(alike, everything, everything, alike).tolist() == [3, 3, 3]

    def test_chunks_do_not_change_ranks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        vectors = F.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
        queries, targets = torch.arange(20), torch.arange(20, 40)
        whole = embedding.target_ranks(vectors, queries, targets, vectors)
        monkeypatch.setattr(embedding, "SIMILARITIES_AT_ONCE", 60)
        assert whole.tolist() == embedding.target_ranks(vectors, queries, targets, vectors).tolist()

    def test_texts_are_encoded_once(self, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = Dataset.from_dict({"first": ["cat", "dog", "cat"], "second": ["dog", "tree", "house"]})
        assert len(embedding.Embedding().encode(rows, tokenizer)) == 4

    def test_the_dense_model_is_at_cosine_one(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = Dataset.from_dict({"first": SENTENCES, "second": SENTENCES})
        found = embedding.Embedding().evaluate(tiny_bert(None), tokenizer, rows, dense=tiny_bert(None))
        assert list(found) == ["recall_at_1", "mrr", "cosine_to_dense", "recall_at_1_in_dense_index"]
        assert [metric.value for metric in found.values()] == pytest.approx([1, 1, 1, 1])
        other = embedding.Embedding().evaluate(tiny_bert(None), tokenizer, rows, dense=tiny_bert(None, seed=1))
        assert other["cosine_to_dense"].value < 0.9
        assert other["recall_at_1"].value == 1
        assert other["recall_at_1_in_dense_index"].value < 1

    def test_scored_pairs_equal_scipy(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        scores = [0.5, 3, 2, 1, 4, 4.5]
        model = tiny_bert(None)
        found = embedding.Embedding().evaluate(model, tokenizer, Dataset.from_dict({**PAIRS, "score": scores}))
        vectors = {}
        for sentence in SENTENCES:
            with torch.no_grad():
                vectors[sentence] = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0].mean(0)
        cosines = [F.cosine_similarity(vectors[a], vectors[b], dim=0) for a, b in zip(*PAIRS.values(), strict=True)]
        cosines = [round(float(cosine), 6) for cosine in cosines]
        assert list(found) == ["spearman"]
        assert found["spearman"].value == pytest.approx(scipy.stats.spearmanr(cosines, scores).statistic, abs=0.2)

    def test_wrong_sources_and_models_are_refused(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        task = embedding.Embedding()
        rows = Dataset.from_dict(PAIRS)
        with pytest.raises(DataError, match="as `data`"):
            task.rows(None, "train")
        with pytest.raises(UnsupportedModel, match="AutoModel"):
            task.evaluate(tiny_bert(), tokenizer, rows)
        with pytest.raises(UnsupportedModel, match="32 and 16 numbers"):
            task.evaluate(tiny_bert(None), tokenizer, rows, dense=tiny_bert(None, hidden_size=16))


class TestText:
    ROWS = Dataset.from_dict({"text": SENTENCES})

    @pytest.mark.parametrize(
        ("head", "names"),
        [
            ("SequenceClassification", ["agreement", "kl"]),
            ("QuestionAnswering", ["agreement", "kl"]),
            ("MaskedLM", ["agreement", "kl"]),
            ("TokenClassification", ["agreement", "kl"]),
            ("Regression", ["squared_distance"]),
            (None, ["cosine_to_dense"]),
        ],
    )
    def test_every_head_agrees_with_itself_only(
        self, head: str | None, names: list[str], tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        options = {"num_labels": 1} if head == "Regression" else {}
        name = "SequenceClassification" if head == "Regression" else head
        dense = tiny_bert(name, **options)
        same = text.Text().evaluate(tiny_bert(name, **options), tokenizer, self.ROWS, dense=dense)
        assert list(same) == names
        best = {"agreement": 1, "kl": 0, "squared_distance": 0, "cosine_to_dense": 1}
        assert {name: metric.value for name, metric in same.items()} == pytest.approx(
            {name: best[name] for name in names}, abs=1e-6
        )
        other = text.Text().evaluate(tiny_bert(name, seed=1, **options), tokenizer, self.ROWS, dense=dense)
        assert all(abs(other[name].value - best[name]) > 1e-3 for name in names if name != "agreement")

    def test_blank_rows_are_left_out(self, tmp_path: Path) -> None:
        rows = [{"text": value} for value in ("a", " ", "b")]
        save(tmp_path, rows, "train.jsonl")
        save(tmp_path, rows[1:2])
        assert list(text.Text().rows(str(tmp_path), "train")["text"]) == ["a", "b"]
        with pytest.raises(DataError, match="are empty"):
            text.Text().rows(str(tmp_path), "validation")

    def test_columns_in_order_of_preference(self, tokenizer: PreTrainedTokenizerBase) -> None:
        task = text.Text()
        both = Dataset.from_dict({**PAIRS, "text": ["cat"] * 6})
        assert len(task.encode(both, tokenizer)[0]["input_ids"]) == 3
        pair = task.encode(Dataset.from_dict(PAIRS), tokenizer)[0]
        assert 1 in pair["token_type_ids"]

    def test_dense_model_is_needed_and_must_fit(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        with pytest.raises(DataError, match="pass the dense model"):
            text.Text().evaluate(tiny_bert(), tokenizer, self.ROWS)
        with pytest.raises(UnsupportedModel, match="dense model predicts"):
            text.Text().evaluate(tiny_bert(), tokenizer, self.ROWS, dense=tiny_bert(num_labels=3))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [("sst2", 0.8739), ("mrpc", 0.7959), ("stsb", 0.8645)])
def test_real_models_reach_their_known_quality(name: str, expected: float) -> None:
    checkpoint, source = SHARED / "models" / f"minilm-{name}", SHARED / "data" / "glue" / name
    if not (checkpoint.exists() and source.exists()):
        pytest.skip(f"needs {checkpoint} and {source}")
    task = plugins.load("tasks", name)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    found = task.evaluate(model, tokenizer, task.rows(str(source), "validation"), max_length=128)
    assert next(iter(found.values())).value == pytest.approx(expected, abs=1e-4)
