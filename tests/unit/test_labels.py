"""Labels reach those who ask for them, in the rows' order and the model's classes, and nobody else."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from conftest import TinyBert
from tiny_models import HEADS, tiny_model
from trimformer import Project, plugins
from trimformer.data.batches import make_batches, only, pad
from trimformer.data.given import calibration_batches
from trimformer.data.labels import in_model_order, pad_labels
from trimformer.data.rows import LABELS, MODEL_INPUTS, Features
from trimformer.errors import DataError, LabelError
from trimformer.observing.predictions import predictions, task_loss

CPU = torch.device("cpu")
ROWS: list[Features] = [{"input_ids": [2, *range(7, 7 + length), 3], "labels": length % 3} for length in range(1, 9)]
PER_TOKEN: list[Features] = [{**row, "labels": [token % 5 for token in row["input_ids"]]} for row in ROWS]


def labelled(head: str) -> list[Features]:
    """Rows with the labels that a head is trained on."""
    if head == "regression":
        return [{**row, "labels": row["labels"] / 2} for row in ROWS]
    if head == "question answering":
        return [
            {"input_ids": row["input_ids"], "start_positions": 1, "end_positions": len(row["input_ids"]) - 1}
            for row in ROWS
        ]
    return PER_TOKEN if head in ("token classification", "masked language model") else ROWS


def test_labels_stay_with_their_rows() -> None:
    for batch in make_batches(ROWS, None, "cpu", labels=True):
        lengths = batch["attention_mask"].sum(1) - 2
        assert torch.equal(batch["labels"], lengths % 3)
    assert only(make_batches(ROWS, None, "cpu", labels=True), MODEL_INPUTS)[0].keys() == {"input_ids", "attention_mask"}


def test_labels_of_tokens_are_padded_with_what_does_not_count() -> None:
    labels = pad_labels(PER_TOKEN, "cpu")["labels"]
    padding = pad(PER_TOKEN, None, "cpu")["attention_mask"] == 0
    assert bool((labels[padding] == -100).all())
    assert bool((labels[~padding] >= 0).all())


@pytest.mark.parametrize("head", [head for head in HEADS if head != "encoder"])
def test_loss_is_the_models_own_and_the_same_in_every_batch(head: str) -> None:
    """One row alone: transformers' mean over a batch weighs tokens, not rows, and its QA loss counts padding."""
    model, rows = tiny_model("bert", head), labelled(head)
    batch, labels = pad(rows, None, "cpu"), pad_labels(rows, "cpu")
    together = task_loss(predictions(model(**batch), batch, model), labels)
    assert together.shape == (len(rows),)
    alone = [model(**pad([row], None, "cpu"), **pad_labels([row], "cpu")).loss for row in rows]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("value", [3, -2])
def test_a_class_that_the_model_lacks_is_refused(value: int) -> None:
    model, batch = tiny_model("bert"), pad(ROWS[:1], None, "cpu")
    with pytest.raises(DataError, match="outside 0 to 2"):
        task_loss(predictions(model(**batch), batch, model), {"labels": torch.tensor([value])})


def test_labels_of_another_shape_are_refused() -> None:
    model, batch = tiny_model("bert"), pad(ROWS[:2], None, "cpu")
    with pytest.raises(DataError, match=r"do not fit predictions"):
        task_loss(predictions(model(**batch), batch, model), {"labels": torch.zeros(2, 7, dtype=torch.long)})


def test_classes_are_numbered_as_the_model_does() -> None:
    classes = ("entailment", "neutral", "contradiction")
    model = tiny_model("bert", id2label={0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"})
    assert [row["labels"] for row in in_model_order(ROWS, classes, model.config)] == [2 - row["labels"] for row in ROWS]
    assert in_model_order(ROWS, classes, tiny_model("bert").config) == ROWS


@pytest.mark.parametrize("missing", [None, -1])
@pytest.mark.parametrize("column", ["label", "labels"])
def test_unlabelled_rows_are_named(missing: int | None, column: str) -> None:
    rows = [{"input_ids": row["input_ids"], column: row["labels"]} for row in ROWS]
    assert {"labels"} < set(calibration_batches(rows, None, None, 0, CPU, labels=True)[0])
    with pytest.raises(LabelError, match="row 3 is unlabelled"):
        calibration_batches([*rows[:2], {**rows[2], column: missing}], None, None, 0, CPU, labels=True)


def test_labels_are_left_out_unless_asked_for() -> None:
    given = make_batches(ROWS, None, "cpu", labels=True)
    for data in (ROWS, given):
        assert not any(set(LABELS) & set(batch) for batch in calibration_batches(data, None, None, 0, CPU))
        assert all("labels" in batch for batch in calibration_batches(data, None, None, 0, CPU, labels=True))
    with pytest.raises(LabelError, match="a batch is unlabelled"):
        calibration_batches(only(given, MODEL_INPUTS), None, None, 0, CPU, labels=True)


def test_padding_is_taken_off_labels_of_tokens_too() -> None:
    row = {"input_ids": [2, 7, 3, 0], "attention_mask": [1, 1, 1, 0], "labels": [0, 1, 2, -100]}
    assert calibration_batches([row], None, None, 0, CPU, labels=True)[0]["labels"].tolist() == [[0, 1, 2]]


class TestProject:
    ROWS = Dataset.from_dict({"sentence": [f"the cat saw {n}" for n in range(40)], "label": [n % 2 for n in range(40)]})
    HELD_OUT = Dataset.from_dict({"sentence": ["a dog", "the cat saw 3"], "label": [0, 1]})

    def project(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> Project:
        model = tiny_bert(num_labels=2, id2label={0: "positive", 1: "negative"})
        return Project(model, tokenizer, plugins.load("tasks", "sst2"), rows, self.HELD_OUT)

    def test_drawn_rows_have_labels_in_the_models_order(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        project = self.project(tiny_bert, tokenizer, self.ROWS)
        drawn, plain = project.drawn(100, 0, labels=True), project.drawn(100, 0)
        by_tokens = {tuple(tokenizer(row["sentence"])["input_ids"]): 1 - row["label"] for row in self.ROWS}
        assert all(row["labels"] == by_tokens[tuple(row["input_ids"])] for row in drawn)
        assert [row["input_ids"] for row in drawn] == [row["input_ids"] for row in plain]
        assert not any("labels" in row for row in plain)
        assert tuple(tokenizer("the cat saw 3")["input_ids"]) not in {tuple(row["input_ids"]) for row in drawn}

    def test_an_unlabelled_row_is_named_by_its_place_in_the_data(
        self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        rows = self.ROWS.to_list()
        rows[16]["label"] = -1
        with pytest.raises(LabelError, match="row 17: 'label' is -1"):
            self.project(tiny_bert, tokenizer, Dataset.from_list(rows)).drawn(300, 0, labels=True)
