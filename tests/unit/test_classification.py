"""Classifiers of people's own: labels are the model's classes, by name or number, whatever the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, List
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from commands import Run, assert_mistake
from conftest import TinyBert
from trimformer import plugins
from trimformer.data.labels import class_numbers, label_sets
from trimformer.errors import DataError, LabelError
from trimformer.judging import statistics
from trimformer.judging.classification import Classification
from trimformer.judging.task import chosen_task
from trimformer.model import checkpoint
from trimformer.model.manifest import read_manifest

TEXTS = ["the red cat", "a dog saw the house", "old city", "who built the big green river", "what is new", "tree"]
CLASSES = ("refund", "Shipping", "card lost", "other")
NAMES = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: number for number, name in enumerate(CLASSES)}}
TASK: Classification = plugins.load("tasks", "classification")


def read(values: list[Any], classes: tuple[str, ...] = CLASSES) -> list[int]:
    return class_numbers(Dataset.from_dict({"label": values}), "label", classes).tolist()


class TestLabels:
    def test_names_and_numbers(self) -> None:
        assert read(["other", "Shipping", "card lost"]) == [3, 1, 2]
        assert read(["OTHER", " shipping ", "0"]) == [3, 1, 0]
        assert read([3, 0]) == read([3.0, 0.0]) == [3, 0]
        assert read([True, False]) == [1, 0]

    def test_yes_or_no_by_name_where_classes_are_called_so(self) -> None:
        assert read([True, False], ("true", "false")) == [0, 1]

    def test_numbers_that_are_the_models_names(self) -> None:
        stars = ("1", "2", "3")
        assert read([1, 3, 2], stars) == read(["1", "3", "2"], stars) == [0, 2, 1]
        with pytest.raises(DataError, match="none of the model's classes"):
            read([0], stars)

    def test_names_that_differ_by_case_alone(self) -> None:
        assert read(["a", "A"], ("A", "a")) == [1, 0]

    def test_a_feature_that_names_its_classes(self) -> None:
        rows = Dataset.from_dict({"label": [0, 1]}).cast_column("label", ClassLabel(names=["other", "shipping"]))
        assert class_numbers(rows, "label", CLASSES).tolist() == [3, 1]

    @pytest.mark.parametrize(
        ("values", "classes", "said"),
        [
            (["refund", "shiping"], CLASSES, "row 2: 'label' is 'shiping', none of the model's classes.*'Shipping'"),
            (
                ["bad", "good", "bad"],
                CLASSES,
                r"^the data: 'label' has 'bad', 'good' \(2\), of which none .*: write these",
            ),
            ([4], CLASSES, r"row 1: 'label' is 4, .*refund, Shipping, card lost, other \(4\): mend"),
            (["a"], ("LABEL_0", "LABEL_1"), "`id2label` in the model's config"),
            ([["a"]], CLASSES, "multi_label_classification"),
            ([None], CLASSES, "unlabelled"),
            ([-1], CLASSES, "unlabelled"),
            ([float("nan")], CLASSES, "'label' is nan, none of the model's classes"),
            ([float("inf")], CLASSES, "'label' is inf, none of the model's classes"),
        ],
    )
    def test_what_the_model_does_not_have(self, values: list[Any], classes: tuple[str, ...], said: str) -> None:
        with pytest.raises(DataError, match=said):
            read(values, classes)

    def test_sets(self) -> None:
        expected = [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]
        for values in (
            [["refund", "other"], [], ["shipping"]],
            ["other|refund", "", "Shipping"],
            [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]],
            [[0, 3], [], [1]],
            ["1,0,0,1", "0;0;0;0", "0|1|0|0"],
        ):
            found = label_sets(Dataset.from_dict({"label": values}), "label", CLASSES)
            assert found.tolist() == expected
        with pytest.raises(DataError, match="not a list of classes"):
            label_sets(Dataset.from_dict({"label": [1]}), "label", CLASSES)

    def test_sets_of_a_feature_that_names_its_classes(self) -> None:
        named = List(ClassLabel(names=["other", "shipping"]))
        rows = Dataset.from_dict({"label": [[0], [1, 0]]}).cast_column("label", named)
        assert label_sets(rows, "label", CLASSES[1:]).tolist() == [[0, 0, 1], [1, 0, 1]]


def logits_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    with torch.no_grad():
        return np.stack([model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in TEXTS])


class TestMetrics:
    def test_classes(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        model = tiny_bert(**NAMES)
        actual = [3, 0, 1, 2, 0, 3]
        rows = Dataset.from_dict({"text": TEXTS, "label": [CLASSES[number] for number in actual]})
        found = TASK.evaluate(model, tokenizer, rows)
        predicted = logits_of(model, tokenizer).argmax(1)
        assert found["accuracy"].value == accuracy_score(actual, predicted)
        assert found["macro_f1"].value == pytest.approx(f1_score(actual, predicted, average="macro"))

    def test_names_of_classes_that_are_numbers_in_the_config(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        model = tiny_bert(id2label={0: 3, 1: 4}, label2id={3: 0, 4: 1})
        predicted = (logits_of(model, tokenizer).argmax(1) + 3).tolist()
        found = TASK.evaluate(model, tokenizer, Dataset.from_dict({"text": TEXTS, "label": predicted}))
        assert found["accuracy"].value == 1

    def test_sets(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        model = tiny_bert(**NAMES, problem_type="multi_label_classification")
        actual = np.random.default_rng(0).integers(0, 2, (6, 4))
        names = ["|".join(name for name, has in zip(CLASSES, row, strict=True) if has) for row in actual]
        found = TASK.evaluate(model, tokenizer, Dataset.from_dict({"text": TEXTS, "labels": names}))
        predicted = logits_of(model, tokenizer) > 0
        assert found["micro_f1"].value == pytest.approx(f1_score(actual, predicted, average="micro"))
        assert found["accuracy"].value == accuracy_score(actual, predicted)

    def test_numbers(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        model = tiny_bert(num_labels=1)
        stars = [-1.5, 3.0, 2.0, 5.0, 1.0, 7.5]
        found = TASK.evaluate(model, tokenizer, Dataset.from_dict({"review": TEXTS, "stars": stars}))
        expected = spearmanr(logits_of(model, tokenizer)[:, 0], stars).statistic
        assert found["spearman"].value == pytest.approx(expected)

    def test_macro_f1_of_many_samples_at_once(self) -> None:
        predicted, actual = np.random.default_rng(0).integers(0, [[[4]], [[5]]], (2, 7, 20))
        expected = [f1_score(right, said, average="macro") for said, right in zip(predicted, actual, strict=True)]
        np.testing.assert_allclose(statistics.macro_f1(predicted, actual), expected)

    def test_f1_of_counts(self) -> None:
        assert statistics.f1_of_counts(np.array([1, 2]), np.array([2, 2]), np.array([1, 5])) == 0.6
        assert statistics.f1_of_counts(*np.zeros((3, 2))) == 0


class TestRows:
    def test_labels_for_a_loss_are_the_models(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = Dataset.from_dict({"text": TEXTS[:2], "label": ["other", "refund"]})
        fitted = TASK.for_model(tiny_bert(**NAMES).config)
        assert [row["labels"] for row in fitted.encode(rows, tokenizer, labels=True)] == [3, 0]
        with pytest.raises(LabelError, match="not a whole number"):
            TASK.encode(rows, tokenizer, labels=True)

    def test_new_heads_have_the_classes_of_the_rows(self) -> None:
        rows = Dataset.from_dict({"text": TEXTS[:3], "label": ["b", "a", "b"]})
        assert TASK.for_rows(rows).head_config["id2label"] == {0: "a", 1: "b"}
        assert TASK.for_rows(Dataset.from_dict({"text": ["x"], "score": [0.5]})).head_config["num_labels"] == 1
        assert TASK.for_rows(Dataset.from_dict({"text": ["x"] * 3, "label": [1, 10**12, 7]})).classes == (
            *("1", "7"),
            str(10**12),
        )
        with pytest.raises(DataError, match="all 2 rows have 'label' 'a'; give rows of two classes"):
            TASK.for_rows(Dataset.from_dict({"text": ["x"] * 2, "label": ["a", "a"]}))
        several = TASK.for_rows(Dataset.from_dict({"text": ["x"], "label": [["b", "a"]]})).head_config
        assert several["problem_type"] == "multi_label_classification"
        assert several["label2id"] == {"a": 0, "b": 1}


@pytest.fixture
def own(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> str:
    return str(checkpoint.write(tiny_bert(**NAMES), tmp_path / "own", tokenizer=tokenizer))


def table(path: Path, labels: list[str], header: str = "text,label") -> Path:
    lines = [f"{TEXTS[number % 6]} number {number},{label}" for number, label in enumerate(labels)]
    path.write_text("\n".join([header, *lines]))
    return path


class TestCommands:
    def test_ones_own_classifier_on_a_csv(self, run: Run, own: str, tmp_path: Path) -> None:
        data = table(tmp_path / "my.csv", [CLASSES[number % 4] for number in range(60)])
        result = run(
            "prune", own, "--data", data, "--flops", 0.5, "--out", tmp_path / "small", "--calibration-tokens", 200
        )
        assert result.code == 0, result.err
        assert "task: classification" in result.err
        assert read_manifest(str(tmp_path / "small"))["task"] == "classification"
        judged = run("evaluate", tmp_path / "small", "--data", data)
        assert judged.code == 0, judged.err
        assert "macro_f1" in judged.out

    def test_labels_that_the_model_does_not_have(self, run: Run, own: str, tmp_path: Path) -> None:
        data = table(tmp_path / "my.csv", [["refund", "chargeback"][number % 2] for number in range(60)])
        out = tmp_path / "small"
        result = run("prune", own, "--data", data, "--flops", 0.5, "--out", out, "--calibration-tokens", 200)
        assert_mistake(
            result, "my.csv, row", "'chargeback', none of the model's classes, refund, Shipping, card lost, other (4)"
        )
        assert not out.exists()

    def test_an_encoder_learns_the_classes_of_the_rows(
        self, run: Run, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
    ) -> None:
        encoder = checkpoint.write(tiny_bert(None), tmp_path / "encoder", tokenizer=tokenizer)
        data = table(tmp_path / "my.csv", [CLASSES[number % 4] for number in range(60)])
        asked = ("--train", "max_steps=2", "--train", "patience=0", "--out", tmp_path / "tuned")
        result = run("finetune", encoder, "--task", "classification", "--data", data, *asked)
        assert result.code == 0, result.err
        config = checkpoint.load_config(str(tmp_path / "tuned"))
        assert config.id2label == dict(enumerate(sorted(CLASSES)))
        assert run("evaluate", tmp_path / "tuned", "--data", data).code == 0

    def test_without_labels_it_is_the_text_task(self, own: str, tmp_path: Path) -> None:
        labelled, unlabelled = (table(tmp_path / f"{name}.csv", ["x"] * 9, f"text,{name}") for name in ("label", "id"))
        assert chosen_task("auto", own, str(labelled)) == "classification"
        assert chosen_task("auto", own, str(unlabelled)) == "text"
        assert chosen_task("auto", own, None) == "classification"
        assert chosen_task("sst2", own, str(labelled)) == "sst2"
