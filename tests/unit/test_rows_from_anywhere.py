"""Rows as people have them: any separator, packing and column names, from files, folders and what Python holds."""

from __future__ import annotations

import gzip
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from trimformer.data import files
from trimformer.data.batches import Padding, real_tokens
from trimformer.data.columns import naming_columns
from trimformer.data.given import calibration_batches
from trimformer.data.tables import as_table
from trimformer.errors import DataError, InvalidOption, TrimformerWarning

CPU = torch.device("cpu")
TEXTS = ["the cat saw a dog", "a dog", "the cat; the dog, a cat", 'a "cat"']
STARS = [5, 1, 4, 2]
HEADER = "Review Text (EN)"


def separated(separator: str) -> str:
    def cell(value: object) -> str:
        text = str(value).replace('"', '""')
        return f'"{text}"' if any(character in text for character in ',;|\t"') else text

    rows = [(HEADER, "Stars"), *zip(TEXTS, STARS, strict=True)]
    return "\n".join(separator.join(map(cell, row)) for row in rows) + "\n"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", "\t")]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_are_told_by_themselves(
    tmp_path: Path, name: str, separator: str, encoding: str, packed: bool
) -> None:
    content = separated(separator).encode(encoding)
    file = tmp_path / (f"{name}.gz" if packed else name)
    file.write_bytes(gzip.compress(content) if packed else content)
    with naming_columns({"text": HEADER, "label": "Stars"}):
        rows = files.read_rows(str(file), "train")
    assert list(rows["text"]) == TEXTS
    assert list(rows["label"]) == STARS


def test_one_column_of_text_with_commas_in_quotes_is_one_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\n"a, b"\n"c; d"\nplain\n')
    assert list(files.read_rows(str(tmp_path / "a.csv"), "train")["text"]) == ["a, b", "c; d", "plain"]


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\nfine,1\ncafé,0\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.csv: line 3 is not UTF-8 \(byte 0xe9\): save the file as UTF-8"):
        files.read_rows(str(tmp_path / "a.csv"), "train")


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"text\n" * 99)[:-9]], ids=["not packed", "cut off"])
def test_damaged_packing_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*a\.csv\.gz"):
        files.read_rows(str(tmp_path / "a.csv.gz"), "train")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,text\na,b\n")
    with pytest.raises(DataError, match="several columns 'text'"):
        files.read_rows(str(tmp_path / "a.csv"), "train")


def test_a_workbook_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    known = importlib.util.find_spec
    monkeypatch.setattr("trimformer.data.readers.find_spec", lambda name: None if name == "openpyxl" else known(name))
    with pytest.raises(DataError, match=r"pip install 'trimformer\[xlsx\]'"):
        files.read_rows(str(tmp_path / "a.xlsx"), "train")


def test_a_workbook_is_read_by_its_first_row(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [(HEADER, "Stars"), *zip([*TEXTS[:3], 7], STARS, strict=True), (None, None)]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    rows = files.read_rows(str(tmp_path / "a.xlsx"), "train")
    assert list(rows[HEADER]) == [*TEXTS[:3], "7"]
    assert list(rows["Stars"]) == STARS
    (tmp_path / "b.xlsx").write_bytes(b"no workbook")
    with pytest.raises(DataError, match="no workbook"):
        files.read_rows(str(tmp_path / "b.xlsx"), "train")


def test_a_saved_dataset_is_a_folder_of_rows(tmp_path: Path) -> None:
    Dataset.from_dict({"text": TEXTS}).save_to_disk(str(tmp_path / "one"))
    assert list(files.read_rows(str(tmp_path / "one"), "train")["text"]) == TEXTS
    both = {"train": Dataset.from_dict({"text": TEXTS[:2]}), "dev": Dataset.from_dict({"text": TEXTS[2:]})}
    DatasetDict(both).save_to_disk(str(tmp_path / "two"))
    assert list(files.read_split(str(tmp_path / "two"), "train")["text"]) == TEXTS[:2]
    assert list(files.read_split(str(tmp_path / "two"), "validation")["text"]) == TEXTS[2:]
    DatasetDict({"odd": both["train"]}).save_to_disk(str(tmp_path / "odd"))
    with pytest.raises(DataError, match="no train or validation split, but odd"):
        files.read_rows(str(tmp_path / "odd"), "train")


def test_a_name_of_the_hub_is_read_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, config: str | None, *, split: str, revision: str | None) -> Dataset:
        asked.append((name, config, split, revision))
        return Dataset.from_dict({"text": TEXTS})

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_, **__: ["test", "train"])
    assert len(files.read_split("some/name:en", "validation")) == 1
    assert asked == [("some/name", "en", "train", None)]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"text": "review text (en)"}, "no column 'review text .en.'; did you mean 'Review Text .EN.'?"),
        ({"text": "nothing of it"}, "it has 'Review Text .EN.', 'Stars'"),
        ({"text": "Star"}, "`columns={'text': 'Star'}`: .*/a.csv has no column 'Star'"),
        ({"text": "Stars", "label": "Stars"}, "two names"),
    ],
)
def test_columns_that_are_not_there_are_refused(tmp_path: Path, columns: dict[str, str], says: str) -> None:
    (tmp_path / "a.csv").write_text(separated(","))
    with naming_columns(columns), pytest.raises(DataError, match=says):
        files.read_rows(str(tmp_path / "a.csv"), "train")


def test_a_column_takes_the_place_of_one_that_had_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,Stars\na,x,1\n")
    with naming_columns({"label": "Stars"}):
        rows = files.read_rows(str(tmp_path / "a.csv"), "train")
    assert rows[0] == {"text": "a", "label": 1}
    assert rows.column_names == ["text", "label"]
    with naming_columns({"label": "text", "text": "label"}):
        assert files.read_rows(str(tmp_path / "a.csv"), "train")[0] == {"text": "x", "label": "a", "Stars": 1}


def generator() -> Iterator[str]:
    yield from TEXTS


def loader(data: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=3, **options)


NAMED = [{"text": text, "label": 1} for text in TEXTS]
KINDS: dict[str, Any] = {
    "list": lambda _: TEXTS,
    "tuple": lambda _: tuple(TEXTS),
    "generator": lambda _: generator(),
    "array": lambda _: np.array(TEXTS),
    "frame": lambda _: pd.DataFrame({"label": STARS, "text": TEXTS}, index=[7, 3, 5, 1]),
    "series": lambda _: pd.Series(TEXTS),
    "dictionary": lambda _: {"label": STARS, "text": TEXTS},
    "arrow": lambda _: pa.table({"text": TEXTS}),
    "Dataset": lambda _: Dataset.from_list(NAMED),
    "column of a Dataset": lambda _: Dataset.from_list(NAMED)["text"],
    "stream": lambda _: Dataset.from_list(NAMED).to_iterable_dataset(),
    "rows with names": lambda _: NAMED,
    "loader of texts": lambda _: loader(TEXTS),
    "loader of rows": lambda _: loader(NAMED),
    "loader of rows as they are": lambda _: loader(NAMED, collate_fn=list),
    "encoded at once": lambda tokenizer: tokenizer(TEXTS),
    "one batch": lambda tokenizer: tokenizer(TEXTS, padding=True, return_tensors="pt"),
    "encoded frame": lambda tokenizer: pd.DataFrame(dict(tokenizer(TEXTS))),
    "loader of lists": lambda tokenizer: loader(Dataset.from_dict(dict(tokenizer(TEXTS, padding=True)))),
}


def contents(batches: list[dict[str, torch.Tensor]]) -> list[list[int]]:
    """Tokens of all rows, without padding, in some order."""
    pairs = [pair for batch in batches for pair in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)]
    return sorted(ids[mask].tolist() for ids, mask in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_what_holds_these_texts_gives_these_rows(tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    expected = sorted(tokenizer(TEXTS)["input_ids"])
    assert contents(calibration_batches(KINDS[kind](tokenizer), tokenizer, None, 0, CPU)) == expected


def test_frames_of_polars_are_frames(tokenizer: PreTrainedTokenizerBase) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"text": TEXTS, "label": STARS})
    expected = sorted(tokenizer(TEXTS)["input_ids"])
    for data in (frame, frame["text"]):
        assert contents(calibration_batches(data, tokenizer, None, 0, CPU)) == expected
    with pytest.raises(DataError, match=r"collect\(\)"):
        calibration_batches(frame.lazy(), tokenizer, None, 0, CPU)


@pytest.mark.parametrize("column", [HEADER, [HEADER], (HEADER, "second")])
def test_the_column_of_text_is_said_where_nobody_can_tell(tokenizer: PreTrainedTokenizerBase, column: Any) -> None:
    frame = pd.DataFrame({HEADER: TEXTS, "second": TEXTS[::-1]})
    with pytest.raises(DataError, match=r"columns 'Review Text \(EN\)', 'second'.*`column='Review Text \(EN\)'`"):
        calibration_batches(frame, tokenizer, None, 0, CPU)
    expected = tokenizer(TEXTS, TEXTS[::-1] if isinstance(column, tuple) else None)["input_ids"]
    for data in (frame, as_table(frame), frame.to_dict("records")):
        assert contents(calibration_batches(data, tokenizer, None, 0, CPU, column=column)) == sorted(expected)


def test_pairs_are_tuples_or_two_columns(tokenizer: PreTrainedTokenizerBase) -> None:
    pairs = list(zip(TEXTS, TEXTS[::-1], strict=True))
    expected = sorted(tokenizer(TEXTS, TEXTS[::-1])["input_ids"])
    assert contents(calibration_batches(pairs, tokenizer, None, 0, CPU)) == expected
    columns = {"sentence1": TEXTS, "sentence2": TEXTS[::-1]}
    assert contents(calibration_batches(columns, tokenizer, None, 0, CPU)) == expected


@pytest.mark.parametrize("missing", ["", "  \n", None, float("nan"), pd.NA, pd.NaT])
def test_blank_and_missing_texts_are_left_out_and_told(tokenizer: PreTrainedTokenizerBase, missing: Any) -> None:
    with pytest.warns(TrimformerWarning, match="2 of 6 texts are blank or missing: they are left out"):
        batches = calibration_batches([missing, *TEXTS, missing], tokenizer, None, 0, CPU)
    assert contents(batches) == sorted(tokenizer(TEXTS)["input_ids"])
    with pytest.raises(DataError, match="all 2 texts are blank or missing"):
        calibration_batches([missing, missing], tokenizer, None, 0, CPU)


def test_a_stream_is_read_until_it_holds_enough(tokenizer: PreTrainedTokenizerBase) -> None:
    read = []

    def rows() -> Iterator[dict[str, str]]:
        for number in range(10_000):
            read.append(number)
            yield {"text": TEXTS[number % 4]}

    batches = calibration_batches(IterableDataset.from_generator(rows), tokenizer, 100, 0, CPU)
    assert real_tokens(batches) >= 100
    assert len(read) < 100


@pytest.mark.parametrize("as_text", [str, lambda text: {"text": text}, lambda _: {"input_ids": [5, 6, 7]}])
def test_a_generator_without_end_is_read_until_it_holds_enough(
    as_text: Callable[[str], Any], tokenizer: PreTrainedTokenizerBase
) -> None:
    endless = (as_text(TEXTS[number % 4]) for number in count())
    assert real_tokens(calibration_batches(endless, tokenizer, 100, 0, CPU)) >= 100


IDS = torch.tensor([[0, 0, 5, 6], [5, 0, 6, 0], [5, 6, 7, 8]])


@pytest.mark.parametrize("as_rows", [False, True])
def test_padding_that_no_mask_names_is_no_text(as_rows: bool) -> None:
    data: Any = [{"input_ids": ids} for ids in IDS.tolist()] if as_rows else [{"input_ids": IDS}]
    with pytest.warns(TrimformerWarning, match="2 rows without attention_mask have padding"):
        batches = calibration_batches(data, None, None, 0, CPU, padding=Padding(0, ends_texts=False))
    assert contents(batches) == [[5, 0, 6], [5, 6], [5, 6, 7, 8]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = calibration_batches(data, None, None, 0, CPU)
    assert contents(whole) == sorted(IDS.tolist())


def test_a_token_that_ends_texts_is_kept_once_where_it_pads_as_well() -> None:
    padding = Padding(0, ends_texts=True)
    batches = calibration_batches(
        [{"input_ids": [5, 6, 0, 0, 0]}, {"input_ids": [0, 5, 0]}], None, None, 0, CPU, padding=padding
    )
    assert contents(batches) == [[0, 5, 0], [5, 6, 0]]


WRONG: list[tuple[Any, str]] = [
    (DatasetDict({"train": Dataset.from_list(NAMED), "test": Dataset.from_list(NAMED)}), "train, test.*data.'train'."),
    (pd.DataFrame({"a": TEXTS}), "say which holds the text, `column='a'`"),
    (pd.DataFrame({"No.": range(4), "a": TEXTS}), "say which holds the text, `column='a'`"),
    ({"a": TEXTS, "b": STARS}, "has the columns 'a', 'b'"),
    ({"text": TEXTS, "label": [1]}, "different lengths: text 4, label 1"),
    ({"text": "one"}, "'text' in it is 'one': give a list"),
    (pd.DataFrame({"text": STARS}), "row 1 of data is 5, not text"),
    (pd.DataFrame([TEXTS[:2]], columns=["text", "text"]), "several columns 'text'"),
    (pd.DataFrame(), "data is empty"),
    ({}, "data is empty"),
    ([], "data is empty"),
    (iter(()), "data is empty"),
    (None, "data is None"),
    (3, "data is of the kind 3"),
    ("rows.csv", "give a list of texts"),
    (b"rows", "give a list of texts"),
    (Path("rows.csv"), "give a list of texts"),
    (set(TEXTS), "order changes"),
    (torch.ones(2, 3), "Tensor"),
    (list, "kind type"),
    ([1, 2], "row 1 of data is 1, not text"),
    ([*TEXTS, 3], "row 5 of data is 3, not text"),
    ([*TEXTS, b"bytes"], "row 5 of data"),
    ([TEXTS], "row 1 of data is .*, not text"),
    ([*TEXTS, ("a", "b")], "row 1 of data|row 5 of data"),
    ([("a", "b", "c")], "row 1 of data"),
    ([*TEXTS, {"input_ids": [5]}], "row 5 of data|row 1 of data"),
    ([{"input_ids": [5]}, "text"], "row 2 of data"),
    ([{"input_ids": [5]}, {"text": "a"}], "row 2 of data"),
    ([{"words": 3}], "columns 'words'"),
    ([{"input_ids": 5}], "give a list of whole numbers"),
    ([{"input_ids": "5 6"}], "give a list of whole numbers"),
    ([{"input_ids": [5, -1]}], "whole numbers from 0 up"),
    ([{"input_ids": [5.5, 6.5]}], "whole numbers from 0 up"),
    ([{"input_ids": ["a"]}], "whole numbers from 0 up"),
    ([{"input_ids": [5, None]}], "whole numbers from 0 up"),
    ([{"input_ids": torch.ones(2, 3)}], "of type torch.float32"),
    ([{"input_ids": torch.ones(2, 3).long()}, "text"], "some are not"),
    (loader([torch.tensor([5, 6])]), "has no names, only Tensor"),
    (loader([{"input_ids": torch.ones(n).long()} for n in (2, 3)]), "give it a collate_fn that pads"),
]


@pytest.mark.parametrize(("data", "says"), WRONG)
def test_what_is_not_understood_is_refused(tokenizer: PreTrainedTokenizerBase, data: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        calibration_batches(data, tokenizer, None, 0, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "column", "says"),
    [
        (TEXTS, "text", "this data has none"),
        (NAMED, 3, "must be the name of a column"),
        (NAMED, ["a", "b", "c"], "must be the name of a column"),
        (NAMED, "txt", "no column 'txt'; it has 'text', 'label'"),
        (NAMED, "label", "row 1 of data is 1, not text"),
    ],
)
def test_a_wrong_column_is_refused(tokenizer: PreTrainedTokenizerBase, data: Any, column: Any, says: str) -> None:
    with pytest.raises((DataError, InvalidOption), match=says):
        calibration_batches(data, tokenizer, None, 0, CPU, column=column)
