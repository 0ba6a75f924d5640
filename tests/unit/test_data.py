"""Rows are read whole from every kind of file, splits never share a row, and errors name what to mend."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset
from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from trimformer import plugins
from trimformer.data import columns, encoding, files, hub
from trimformer.errors import DataError, InvalidOption

ROWS = [{"sentence": f'row {index}, with a "quote"', "label": index % 2} for index in range(10)]


def write_rows(file: Path, rows: list[dict[str, object]] = ROWS) -> str:
    table = pa.Table.from_pylist(rows)
    if file.suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows, indent=1))
    elif file.suffix == ".csv":
        pa.csv.write_csv(table, file)
    else:
        pa.parquet.write_table(table, file)
    return str(file)


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet", ".JSONL"])
def test_every_ending_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    source = write_rows(tmp_path / f"train{ending.lower()}")
    if ending.isupper():
        source = str(Path(source).rename(tmp_path / f"train{ending}"))
    assert list(files.read_rows(source, "train")) == ROWS
    assert list(files.read_rows(str(tmp_path), "train")) == ROWS


def test_text_file_has_one_row_a_line_without_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("first line\n\n  \nsecond line é\n", encoding="utf-8")
    rows = files.read_rows(str(tmp_path / "rows.txt"), "validation")
    assert list(rows["text"]) == ["first line", "second line é"]


def test_json_may_hold_rows_in_data_or_be_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"version": "1.1", "data": ROWS}))
    (tmp_path / "b.json").write_text("\n".join(map(json.dumps, ROWS)))
    assert list(files.read_rows(str(tmp_path / "a.json"), "train")) == ROWS
    assert list(files.read_rows(str(tmp_path / "b.json"), "train")) == ROWS


def test_columns_that_appear_late_and_rows_beyond_one_parser_block_are_kept(tmp_path: Path) -> None:
    rows = [{"text": "x" * 3_000_000}, {"text": "y", "label": 1}]
    assert list(files.read_rows(write_lines(tmp_path, rows), "train")) == [{**rows[0], "label": None}, rows[1]]


def write_lines(folder: Path, rows: list[dict[str, object]]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


@pytest.mark.parametrize("stem", ["validation", "valid", "dev"])
def test_validation_file_may_have_three_names(tmp_path: Path, stem: str) -> None:
    write_rows(tmp_path / "train.jsonl", ROWS[:6])
    write_rows(tmp_path / f"{stem}.jsonl", ROWS[6:])
    assert list(files.read_split(str(tmp_path), "validation")) == ROWS[6:]
    assert list(files.read_split(str(tmp_path), "train")) == ROWS[:6]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"a": 1}\n{"a": 2\n', "line 2 is damaged"),
        ("rows.jsonl", b'{"a": 1}\n[1]\n', "line 2 is damaged, not an object"),
        ("rows.jsonl", b'{"a": 1}\n{"a": "x"}\n', "changed from number to string in row 1"),
        ("rows.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "line 2 is not UTF-8 .byte 0xff."),
        ("rows.jsonl", b"\n", "no rows"),
        ("rows.json", b'[{"a": 1},\n {"a": 2]', "line 2"),
        ("rows.json", b'[{"a": 1}, 3]', "neither a list of objects"),
        ("rows.json", b"", "cannot read"),
        ("rows.csv", b"a,b\n1,2\n3\n", "Row #3"),
        ("rows.csv", b"", "Empty CSV"),
        ("rows.csv", b"a,b\n", "no rows"),
        ("rows.parquet", b"PAR1 cut short", "cannot read"),
        ("rows.txt", b"good\n\xff\xfe\n", "cannot read"),
        ("rows.txt", b"", "no rows"),
        ("rows.pkl", b"x", "unknown ending"),
        ("rows.json", b"[" * 100_000, "cannot read"),
        ("rows.jsonl", b'{"a": [null, null]}\n' * 3, "leave out the column of that kind, of 'a' list<item: null>"),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        files.read_rows(str(tmp_path / name), "train")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_that_datasets_do_not_have_are_named(tmp_path: Path) -> None:
    facts = pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32()))
    pa.parquet.write_table(pa.table({"text": ["x"], "facts": facts}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="leave out the column of that kind, of 'text' string, 'facts' map"):
        files.read_rows(str(tmp_path / "rows.parquet"), "train")


def test_missing_and_ambiguous_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        files.read_rows(str(tmp_path / "nothing.jsonl"), "train")
    with pytest.raises(DataError, match="no train or validation file"):
        files.read_rows(str(tmp_path), "train")
    write_rows(tmp_path / "train.jsonl")
    write_rows(tmp_path / "train.csv")
    with pytest.raises(DataError, match=r"train\.csv, train\.jsonl"):
        files.read_rows(str(tmp_path), "train")


def test_hub_errors_become_data_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(DataError, match=r"no route.*as `data`"):
        hub.read_hub("some/name", None, "train")


@pytest.mark.parametrize("folder", [False, True])
def test_one_file_for_both_splits_is_divided_without_overlap(tmp_path: Path, folder: bool) -> None:
    rows = [{"text": f"row {index % 37}"} for index in range(100)]
    file = write_rows(tmp_path / "train.jsonl", rows)
    source = str(tmp_path) if folder else file
    train, validation = (set(files.read_split(source, split)["text"]) for split in ("train", "validation"))
    assert not train & validation
    assert train | validation == {row["text"] for row in rows}
    assert list(files.read_rows(source, "validation")) == rows


def test_split_is_deterministic_and_changes_with_the_seed() -> None:
    rows = Dataset.from_list([{"text": str(index)} for index in range(50)])
    first, again, other = (files.split_rows(rows, seed) for seed in (1, 1, 2))
    assert len(first["validation"]) == 10
    assert len(first["train"]) == 40
    assert list(first["train"]) == list(again["train"])
    assert list(first["validation"]) != list(other["validation"])


@pytest.mark.parametrize("texts", [["only"], ["same", "same"]])
def test_one_distinct_row_cannot_be_divided(texts: list[str]) -> None:
    with pytest.raises(DataError, match="more rows"):
        files.split_rows(Dataset.from_dict({"text": texts}))


@pytest.mark.parametrize("wrong", [3, 17, 39])
@pytest.mark.parametrize(
    ("task", "row", "damage"),
    [
        ("text", {"text": "a cat"}, {"text": None}),
        ("stsb", {"sentence1": "a cat", "sentence2": "a dog", "label": 2.5}, {"label": None}),
        ("sst2", {"sentence": "a cat", "label": 1}, {"label": 5}),
        ("token_classification", {"tokens": ["a", "cat"], "tags": [0, 1]}, {"tags": [0]}),
        ("multiple_choice", {"question": "q", "choices": ["a", "b"], "label": 0}, {"label": 2}),
        ("squad", {"question": "q", "context": "a cat", "answers": ["cat"]}, {"answers": []}),
        ("squad_v2", {"question": "q", "context": "a cat", "answers": ["cat"]}, {"context": "", "answers": []}),
        ("reranking", {"query": "q", "positives": ["a"], "relevance": [1.0]}, {"relevance": [1.0, 2.0]}),
    ],
)
def test_a_wrong_row_is_named_by_its_place_in_the_file(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    row: dict[str, Any],
    damage: dict[str, Any],
    wrong: int,
) -> None:
    """One file is divided at random: the number is that of the file, whichever part the row is in."""
    rows = [row | {"id": number} | (damage if number == wrong else {}) for number in range(1, 41)]
    file, chosen = tmp_path / "rows.jsonl", plugins.load("tasks", task)
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))

    def said(split: str) -> str | None:
        try:
            rows = chosen.rows(str(file), split)
            chosen.encode(rows, tokenizer, labels=split == "train" and task not in ("text", "reranking"))
        except DataError as error:
            return str(error)

    errors = [each for each in map(said, ("train", "validation")) if each]
    assert errors
    assert all(f"row {wrong}" in each for each in errors), errors


@pytest.mark.parametrize(("task", "column"), [("text", "text"), ("sst2", "sentence")])
def test_a_text_without_tokens_is_named_by_its_place_in_the_file(
    tokenizer: PreTrainedTokenizerBase, task: str, column: str
) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1")
    rows = Dataset.from_list([{column: text, "label": 0} for text in ("a cat", "a dog", "", "the cat")])
    with pytest.raises(DataError, match="row 3 has no tokens"):
        plugins.load("tasks", task).encode(rows.select([3, 2]), bare)


def test_missing_columns_name_those_that_are_there() -> None:
    rows = Dataset.from_list(ROWS)
    with pytest.raises(DataError, match=r"rows.csv has no column 'text'.*'label'.*`columns=\{'text': '…'\}`"):
        columns.require_columns(columns.located(rows, "rows.csv"), ["text"])
    assert columns.choose_columns(rows, [("text",), ("sentence",)]) == ("sentence",)


@pytest.mark.parametrize("values", [[1, 2], ["fine", None], [["a"], ["b"]]])
def test_texts_must_be_text(values: list[object]) -> None:
    with pytest.raises(DataError, match=r"row [12]: 'text' is .*, not text"):
        columns.texts(Dataset.from_dict({"text": values}), "text")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 2], "row 2: 'label' is 2, outside 0 to 1"),
        ([0, -1], "row 2: 'label' is -1, the row is unlabelled"),
        ([None, 1], "row 1: 'label' is None, the row is unlabelled"),
        ([0.5, 1.0], "row 1: 'label' is 0.5, not a whole number"),
        (["yes"], "row 1: 'label' is 'yes', not a whole number"),
        ([True], "row 1: 'label' is True, not a whole number"),
    ],
)
def test_labels_out_of_range_are_named(values: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        columns.numbers(Dataset.from_dict({"label": values}), "label", whole=True, low=0, high=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_must_be_finite(value: float) -> None:
    with pytest.raises(DataError, match=r"row 2"):
        columns.numbers(Dataset.from_dict({"score": [0.5, value]}), "score")


def test_encoding_truncates_and_does_not_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    short, long = encoding.encode_texts([["the cat", "a " * 100]], tokenizer)
    assert len(short["input_ids"]) == 4
    assert len(long["input_ids"]) == tokenizer.model_max_length
    assert set(short) == {"input_ids", "attention_mask", "token_type_ids"}
    assert [len(row["input_ids"]) for row in encoding.encode_texts([["a " * 100], ["a " * 100]], tokenizer, 20)] == [20]


@pytest.mark.parametrize("max_length", [0, 7, 65])
def test_max_length_out_of_range(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    with pytest.raises(InvalidOption, match=f"`max_length={max_length}` is outside 8 to 64"):
        encoding.length_limit(tokenizer, max_length)
