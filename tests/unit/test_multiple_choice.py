"""Choices in every form that data sets have, and the choice that the model itself makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from conftest import TinyBert
from trimformer import plugins
from trimformer.errors import DataError, UnsupportedModel
from trimformer.tasks.multiple_choice import answers, questions

TASK = plugins.load("tasks", "multiple_choice")
CHOICES = [["red cat", "old dog", "tree"], ["house", "river"]]
ROWS = Dataset.from_dict({"question": ["who saw", "what is big"], "choices": CHOICES, "label": [2, 0]})


def asked(**columns: Any) -> list[tuple[str, list[str]]]:
    return [(each.first, list(each.choices)) for each in questions(Dataset.from_dict(columns))]


def test_every_form() -> None:
    plain = [("q", ["a", "b"])]
    assert asked(question=["q"], choices=[["a", "b"]]) == asked(prompt=["q"], choices=[["a", "b"]]) == plain
    assert asked(question=["q"], choices=[{"label": ["A", "B"], "text": ["a", "b"]}]) == plain
    assert asked(article=["c"], question=["q"], options=[["a", "b"]]) == [("c", ["q a", "q b"])]
    endings = {f"ending{number}": [f"e{number}"] for number in range(4)}
    assert asked(sent1=["s"], sent2=["t"], **endings) == [("s", ["t e0", "t e1", "t e2", "t e3"])]


@pytest.mark.parametrize("answer", [1, "1", "B", "old dog"])
def test_answers_in_every_form(answer: Any) -> None:
    rows = Dataset.from_dict({"question": ["q"], "choices": CHOICES[:1], "answer": [answer]})
    assert answers(rows) == [1]


def test_answers_by_the_text_of_the_choice_where_the_model_reads_more() -> None:
    with_context = {"context": ["c"], "question": ["q"], "choices": CHOICES[:1], "answer": ["tree"]}
    endings = {f"ending{number}": [f"e{number}"] for number in range(4)}
    with_endings = {"sent1": ["s"], "sent2": ["t"], **endings, "label": ["e2"]}
    assert [answers(Dataset.from_dict(rows)) for rows in (with_context, with_endings)] == [[2], [2]]


def test_rows_to_judge_by_need_answers(tmp_path: Path) -> None:
    asked = [{"question": f"q{number}", "choices": ["a", "b"]} for number in range(10)]
    for split, rows in {"train": asked, "validation": [{**row, "label": 1} for row in asked]}.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert TASK.rows(str(tmp_path), "train").column_names == ["question", "choices"]
    assert TASK.rows(str(tmp_path), "validation")["label"] == [1] * 10
    (tmp_path / "train.jsonl").rename(tmp_path / "validation.jsonl")
    with pytest.raises(DataError, match="label"):
        TASK.rows(str(tmp_path / "validation.jsonl"), "validation")


@pytest.mark.parametrize("answer", [3, -1, "D", "cat", None])
def test_answers_that_are_no_choice(answer: Any) -> None:
    rows = Dataset.from_dict({"question": ["q"], "choices": CHOICES[:1], "answer": [answer]})
    with pytest.raises(DataError, match=r"row 1: 'answer' is .*, none of the 3 choices"):
        answers(rows)


@pytest.mark.parametrize(("answer", "right"), [("1", 0), ("2", 1), (1, 1)])
def test_choices_that_have_numbers_as_names_are_called_so(answer: str | int, right: int) -> None:
    choices = [{"label": ["1", "2"], "text": ["cat", "dog"]}]
    assert answers(Dataset.from_dict({"question": ["q"], "choices": choices, "answerKey": [answer]})) == [right]


@pytest.mark.parametrize(
    ("choices", "given", "right"),
    [
        ([["B", "A"], ["A", "C"]], ["A", "C"], [1, 1]),
        ([["2", "3", "0"], ["4", "7", "1"]], ["2", "7"], [0, 1]),
        ([["2", "3", "0"], ["4", "7", "1"]], [2, 1], [2, 1]),
        ([["B", "A"], ["A", "B"]], ["A", "B"], None),
        ([["2", "3", "0"]], ["2"], None),
        ([["bat", "bat", "cat"]], ["bat"], None),
    ],
    ids=["texts", "texts that are numbers", "numbers", "letters or texts", "numbers or texts", "two alike"],
)
def test_all_answers_are_read_in_one_way(choices: list[list[str]], given: list[Any], right: list[int] | None) -> None:
    rows = Dataset.from_dict({"question": ["q"] * len(given), "choices": choices, "answer": given})
    if right is not None:
        assert answers(rows) == right
        return
    with pytest.raises(DataError, match=r"row 1: 'answer' is .*, which can be read as 2 of the"):
        answers(rows)


def test_rows_without_choices() -> None:
    for choices in (["a"], None, {"texts": ["a", "b"]}):
        with pytest.raises(DataError, match=r"row 1: 'choices' is .* not a list of two texts or more"):
            asked(question=["q"], choices=[choices])


def test_accuracy_is_that_of_the_models_choice(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_bert("MultipleChoice")
    chosen = []
    for row in ROWS:
        encoded = tokenizer([row["question"]] * len(row["choices"]), row["choices"], padding=True, return_tensors="pt")
        with torch.no_grad():
            chosen.append(int(model(**{name: values[None] for name, values in encoded.items()}).logits.argmax()))
    for labels in ([2, 0], chosen, [1, 1]):
        rows = ROWS.remove_columns("label").add_column("label", labels)
        expected = np.mean([own == right for own, right in zip(chosen, labels, strict=True)])
        assert TASK.evaluate(model, tokenizer, rows)["accuracy"].value == expected
    assert [row["labels"] for row in TASK.encode(ROWS, tokenizer, labels=True)] == [2, 0]


def test_other_models_are_refused(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UnsupportedModel, match="does not choose"):
        TASK.evaluate(tiny_bert(), tokenizer, ROWS)
