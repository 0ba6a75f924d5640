"""`trimformer finetune` without a task: the head tells it, or the rows; own classes, tags and rerankers are trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from commands import Run, rows, write
from conftest import TinyBert
from trimformer import plugins
from trimformer.errors import DataError, InvalidOption
from trimformer.judging.task import trained_task
from trimformer.model import checkpoint

QUICK = ("--train", "max_steps=2", "--train", "patience=0")
SENTENCES = [str(row["sentence"]) for row in rows(40, seed=0)]
TAGS = ("O", "B-NAME")
KINDS = {
    "token_classification": [{"tokens": s.split(), "tags": [TAGS[len(w) % 2] for w in s.split()]} for s in SENTENCES],
    "multiple_choice": [{"question": text, "choices": ["a cat", "a dog"], "label": 0} for text in SENTENCES],
    "question_answering": [{"question": "what", "context": text, "answer": text.split()[0]} for text in SENTENCES],
    "classification": [{"text": text, "label": ("good", "bad")[len(text) % 2]} for text in SENTENCES],
    "embedding": [{"first": text, "second": text[::-1]} for text in SENTENCES],
}


@pytest.fixture
def encoder(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    return checkpoint.write(tiny_bert(None), tmp_path / "encoder", tokenizer=tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_tell_what_a_model_without_a_head_is_trained_for(encoder: Path, tmp_path: Path, kind: str) -> None:
    write(tmp_path / "rows.jsonl", KINDS[kind])
    assert trained_task("auto", str(encoder), str(tmp_path / "rows.jsonl")) == kind
    assert trained_task("sst2", str(encoder), str(tmp_path / "rows.jsonl")) == "sst2"


def test_the_head_tells_it_before_the_rows(
    tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = str(checkpoint.write(tiny_bert(), tmp_path / "model", tokenizer=tokenizer))
    masked = str(checkpoint.write(tiny_bert("MaskedLM"), tmp_path / "masked", tokenizer=tokenizer))
    write(tmp_path / "rows.jsonl", KINDS["classification"])
    write(tmp_path / "texts.jsonl", [{"text": text} for text in SENTENCES])
    assert trained_task("auto", model, str(tmp_path / "rows.jsonl")) == "classification"
    assert trained_task("auto", masked, str(tmp_path / "rows.jsonl")) == "classification"
    assert trained_task("auto", masked, str(tmp_path / "texts.jsonl")) == "fill_mask"


def test_rows_of_two_tasks_are_refused(encoder: Path, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"query": text, "positives": ["a cat"], "negatives": []} for text in SENTENCES])
    with pytest.raises(InvalidOption, match=r"rows\.jsonl fit reranking and embedding: say with `task`"):
        trained_task("auto", str(encoder), str(tmp_path / "rows.jsonl"))


def test_tags_by_name_are_those_of_the_new_head(run: Run, encoder: Path, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", KINDS["token_classification"])
    result = run("finetune", encoder, "--data", tmp_path / "rows.jsonl", *QUICK, "--out", tmp_path / "tagger")
    assert result.code == 0, result.err
    assert "task: token_classification" in result.err
    assert set(checkpoint.load_config(str(tmp_path / "tagger")).id2label.values()) == set(TAGS)
    again = run("finetune", tmp_path / "tagger", "--data", tmp_path / "rows.jsonl", *QUICK, "--out", tmp_path / "again")
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "again" / "trimformer.json").read_text())["finetuning"]["new_head"] == []


class TestOtherClasses:
    """A classifier whose head has other classes than the rows: refused, unless a new head is asked for."""

    @pytest.fixture
    def animals(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
        model = tiny_bert(num_labels=3)
        model.config.id2label = {0: "cat", 1: "dog", 2: "cow"}
        write(tmp_path / "rows.jsonl", KINDS["classification"])
        return checkpoint.write(model, tmp_path / "animals", tokenizer=tokenizer)

    def test_are_refused_with_a_remedy(self, run: Run, animals: Path, tmp_path: Path) -> None:
        result = run("finetune", animals, "--data", tmp_path / "rows.jsonl", *QUICK, "--out", tmp_path / "tuned")
        assert result.code == 2
        assert (
            "'label' has 'good', 'bad' (2), of which none is one of the model's classes, cat, dog, cow (3)"
            in result.err
        )
        assert "or fine-tune with --new-head to train a head for yours" in result.err

    def test_get_a_new_head_when_asked(self, run: Run, animals: Path, tmp_path: Path) -> None:
        asked = ("--data", tmp_path / "rows.jsonl", "--new-head", *QUICK)
        result = run("finetune", animals, *asked, "--out", tmp_path / "tuned")
        assert result.code == 0, result.err
        assert "animals gets a new head for classification: classifier.bias, classifier.weight" in result.err
        assert set(checkpoint.load_config(str(tmp_path / "tuned")).id2label.values()) == {"good", "bad"}

    def test_of_another_task_get_a_new_head_too(self, run: Run, animals: Path, tmp_path: Path) -> None:
        write(tmp_path / "tags.jsonl", KINDS["token_classification"])
        asked = ("--data", tmp_path / "tags.jsonl", "--new-head", *QUICK)
        result = run("finetune", animals, *asked, "--out", tmp_path / "tagger")
        assert result.code == 0, result.err
        assert "task: token_classification, by the rows" in result.err

    def test_metrics_of_the_head_before_are_left_out(self, run: Run, animals: Path, tmp_path: Path) -> None:
        data = ("--data", tmp_path / "rows.jsonl")
        assert run("finetune", animals, *data, "--new-head", *QUICK, "--out", tmp_path / "tuned").code == 0
        smaller = ("--flops", "0.5", "--calibration-tokens", "200", "--set", "epochs=0")
        assert run("prune", tmp_path / "tuned", *data, *smaller, "--out", tmp_path / "small").code == 0
        again = ("--task", "sst2", "--new-head", "--column", "sentence=text", *QUICK)
        write(
            tmp_path / "numbers.jsonl",
            [{**row, "label": int(row["label"] == "good")} for row in KINDS["classification"]],
        )
        result = run(
            "finetune", tmp_path / "small", "--data", tmp_path / "numbers.jsonl", *again, "--out", tmp_path / "again"
        )
        assert result.code == 0, result.err
        facts = json.loads((tmp_path / "again" / "trimformer.json").read_text())
        assert facts["metrics"]["dense"] == {}
        assert facts["finetuning"]["before"] is None
        card = (tmp_path / "again" / "README.md").read_text()
        trained, accuracy = facts["finetuning"]["rows"], facts["metrics"]["pruned"]["accuracy"]
        assert f"fine-tuned on {trained} rows; classifier.bias and classifier.weight started from random" in card
        assert f"Then it has accuracy {accuracy['value']:.4f} of {accuracy['sample_size']} rows; the original" in card

    def test_tasks_without_a_head_have_none_to_replace(self, run: Run, encoder: Path, tmp_path: Path) -> None:
        write(tmp_path / "rows.jsonl", KINDS["embedding"])
        asked = ("--data", tmp_path / "rows.jsonl", "--new-head", *QUICK)
        result = run("finetune", encoder, *asked, "--out", tmp_path / "tuned")
        assert result.code == 2
        assert "embedding needs no head: leave out --new-head" in result.err


class TestReranker:
    """A cross-encoder from an encoder: it learns to score documents that name the query's animal."""

    @pytest.fixture
    def queries(self) -> list[dict[str, object]]:
        return [
            {"query": f"{text} {right}", "positives": [f"a {right}"], "negatives": [f"a {wrong}"]}
            for number, text in enumerate(SENTENCES)
            for right, wrong in [(("cat", "dog"), ("dog", "cat"))[number % 2]]
        ]

    def test_it_is_trained_and_judged_by_its_scores(
        self, run: Run, encoder: Path, tmp_path: Path, queries: list[dict[str, object]]
    ) -> None:
        write(tmp_path / "rows.jsonl", queries)
        data = ("--task", "reranking", "--data", tmp_path / "rows.jsonl")
        result = run("finetune", encoder, *data, *QUICK, "--out", tmp_path / "reranker")
        assert result.code == 0, result.err
        facts = json.loads((tmp_path / "reranker" / "trimformer.json").read_text())
        assert list(facts["metrics"]["finetuned"]) == ["ndcg_at_10", "mrr"]
        assert checkpoint.load_config(str(tmp_path / "reranker")).num_labels == 1

    def test_its_loss_is_the_cross_entropy_of_every_pair(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        task, model = plugins.load("tasks", "reranking"), tiny_bert(num_labels=1)
        lists = {"positives": [["the cat", "a dog"]], "negatives": [["a tree"]], "relevance": [[4.0, 1.0]]}
        features = task.training_rows(Dataset.from_dict({"query": ["a cat"], **lists}), tokenizer)
        assert sorted(row["labels"] for row in features) == [0, 0.25, 1]
        batch = task.training_batch(features, tokenizer)
        with torch.no_grad():
            inputs = {name: values for name, values in batch.items() if name != "labels"}
            chances = torch.sigmoid(model(**inputs).logits[:, 0].double())
            wanted = batch["labels"].double()
            expected = -(wanted * chances.log() + (1 - wanted) * (1 - chances).log()).mean()
            assert float(task.loss(model, batch)) == pytest.approx(float(expected), abs=1e-6)
            double = {name: torch.cat([values, values]) for name, values in batch.items()}
            assert float(task.loss(model, double)) == pytest.approx(float(expected), abs=1e-6)

    def test_a_model_of_two_outputs_scores_by_their_difference(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        task, model = plugins.load("tasks", "reranking"), tiny_bert(num_labels=2)
        rows = Dataset.from_dict({"query": ["a cat"], "positives": [["the cat"]], "negatives": [["a tree"]]})
        batch = task.training_batch(task.training_rows(rows, tokenizer), tokenizer)
        with torch.no_grad():
            inputs = {name: values for name, values in batch.items() if name != "labels"}
            expected = functional.cross_entropy(model(**inputs).logits, batch["labels"].long())
            assert float(task.loss(model, batch)) == pytest.approx(float(expected), abs=1e-6)

    def test_relevance_below_zero_is_refused(self, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = Dataset.from_dict({"query": ["a", "b"], "passage": ["x", "y"], "score": np.asarray([-1.0, 1.0])})
        with pytest.raises(DataError, match="a relevance is -1: give 0"):
            plugins.load("tasks", "reranking").training_rows(rows, tokenizer)
