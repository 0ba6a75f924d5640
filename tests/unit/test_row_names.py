"""A message about a row says in which file it is, and which one there, whatever was chosen of the rows before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from trimformer import plugins
from trimformer.data.columns import located, place_of, row_names, select_rows, texts
from trimformer.data.files import read_rows, read_split
from trimformer.errors import TrimformerError
from trimformer.judging.task import FitsRows

CHOICES = {"question": "Which?", "choices": ["one", "two"], "answer": 0}
GOOD: dict[str, dict[str, Any]] = {
    "sst2": {"sentence": "a fine film", "label": 1},
    "stsb": {"sentence1": "a cat", "sentence2": "a dog", "label": 2.5},
    "classification": {"text": "a fine film", "label": 1},
    "token_classification": {"tokens": ["a", "film"], "tags": [0, 1]},
    "multiple_choice": CHOICES,
    "likelihood_choice": CHOICES,
    "question_answering": {"question": "who", "context": "a man", "answers": {"text": ["man"], "answer_start": [2]}},
    "squad": {"question": "who", "context": "a man", "answers": {"text": ["man"], "answer_start": [2]}},
    "reranking": {"query": "cat", "positives": ["a cat"], "negatives": ["a dog"], "relevance": [1.0]},
    "embedding": {"query": "cat", "positives": ["a cat"], "relevance": [1.0]},
    "text": {"text": "a fine film"},
    "fill_mask": {"text": "a fine film"},
    "last_word": {"text": "a fine film"},
}
"""A row by task."""
BROKEN = [
    ("sst2", "sentence", None),
    ("sst2", "label", 2),
    ("stsb", "sentence2", None),
    ("stsb", "label", 5.5),
    ("classification", "text", None),
    ("classification", "label", None),
    ("token_classification", "tokens", []),
    ("token_classification", "tags", [0]),
    ("multiple_choice", "choices", ["one"]),
    ("multiple_choice", "answer", 7),
    ("likelihood_choice", "question", None),
    ("question_answering", "context", None),
    ("question_answering", "answers", {"text": ["man"], "answer_start": [3]}),
    ("squad", "answers", {"text": [], "answer_start": []}),
    ("reranking", "relevance", [1.0, 0.0]),
    ("embedding", "relevance", [1.0, 0.0]),
    ("text", "text", None),
    ("fill_mask", "text", None),
    ("last_word", "text", None),
]

ODD: list[Any] = [None, 3, -1, 2.5, True, "", [], {}, [[]], ["x", None], {"text": ["a"], "answer_start": ["2"]}]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.parametrize(("task", "column", "value"), BROKEN)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_file_and_the_row_are_named(
    task: str, column: str, value: Any, split: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [GOOD[task] | {"extra": number} for number in range(5)]
    rows[3] |= {column: value}
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.jsonl", rows if name == split else [GOOD[task]] * 5)
    chosen = plugins.load("tasks", task)
    labels = task not in ("likelihood_choice", "reranking", "embedding", "text", "fill_mask", "last_word")
    with pytest.raises(TrimformerError) as told:
        chosen.encode(chosen.rows(str(tmp_path), split).select([3, 1]), tokenizer, labels=labels)
    assert f"{tmp_path}/{split}.jsonl, row 4" in str(told.value)


@pytest.mark.parametrize(("task", "column"), [(task, column) for task, row in GOOD.items() for column in row])
@pytest.mark.filterwarnings("ignore")
def test_whatever_a_row_holds_is_read_or_told(
    task: str, column: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """In one row, and in all, so that the column is of that kind."""
    chosen = plugins.load("tasks", task)
    for value, rows in product(ODD, ({2}, {0, 1, 2, 3})):
        write(tmp_path / "train.jsonl", [GOOD[task] | ({column: value} if each in rows else {}) for each in range(4)])
        write(tmp_path / "validation.jsonl", [GOOD[task]] * 4)
        with suppress(TrimformerError):
            read = chosen.rows(str(tmp_path), "train")
            trained = chosen.for_rows(read) if isinstance(chosen, FitsRows) else chosen
            trained.encode(read, tokenizer)
            trained.encode(read, tokenizer, labels=True)


@pytest.mark.parametrize("count", [20, 4])  # of four, one is to judge by
def test_rows_of_one_file_that_is_divided_have_its_numbers(count: int, tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    file.write_text("text\n" + "".join(f"word {number}\n" for number in range(1, count + 1)))
    for split in ("train", "validation"):
        rows = read_split(str(file), split)
        assert row_names(rows) == [f"{file}, row {text.split()[1]}" for text in rows["text"]]


@pytest.mark.parametrize("places", [[], [0], [3], [1, 2], [2, 3, 4], [4, 2], [0, 1, 2, 3, 4], range(1, 4)])
def test_rows_that_follow_one_another_keep_their_numbers(places: Sequence[int]) -> None:
    """`select` cuts such a part out of the table, and forgets where it began."""
    rows = located(Dataset.from_dict({"text": list("abcde")}), "a.csv")
    found = select_rows(rows, places)
    assert found["text"][:] == ["abcde"[place] for place in places]
    assert row_names(found) == [f"a.csv, row {place + 1}" for place in places]
    again = select_rows(found, range(len(places))[1:])
    assert row_names(again) == row_names(found)[1:]


def test_rows_before_which_empty_ones_were_left_out(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.jsonl", [{"text": text} for text in ("", "a film", "film", "a cat")])
    rows = plugins.load("tasks", "last_word").rows(str(tmp_path), "validation")
    assert row_names(rows) == [f"{tmp_path}/validation.jsonl, row {number}" for number in (2, 3, 4)]


def test_what_is_missing_is_told_with_the_file(tmp_path: Path) -> None:
    write(tmp_path / "validation.jsonl", [{"words": "a film"}, {"words": "a cat"}])
    with pytest.raises(TrimformerError, match=r"validation\.jsonl has no column 'sentence'"):
        plugins.load("tasks", "sst2").rows(str(tmp_path), "validation")


def test_rows_that_nobody_read_here_are_the_data() -> None:
    rows = Dataset.from_dict({"text": ["a", None]})
    assert place_of(rows) == "the data"
    with pytest.raises(TrimformerError, match="the data, row 2: 'text' is None"):
        texts(rows, "text")


@pytest.mark.parametrize(("builder", "name", "place"), [("parquet", "glue", "glue"), ("json", "json", "the data")])
def test_a_dataset_has_the_name_that_it_came_with_but_not_that_of_a_reader(builder: str, name: str, place: str) -> None:
    rows = Dataset.from_dict({"text": ["a"]})
    rows.info.builder_name, rows.info.dataset_name = builder, name
    assert row_names(rows) == [f"{place}, row 1"]


def test_reading_changes_nothing_of_another_reading(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": "a"}])
    rows = read_rows(str(tmp_path / "train.jsonl"), "train")
    other = located(read_rows(str(tmp_path / "train.jsonl"), "train"), "elsewhere")
    assert (place_of(rows), place_of(other)) == (f"{tmp_path}/train.jsonl", "elsewhere")
