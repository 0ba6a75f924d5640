"""Rows from a file or a folder, checked on the way in.

A folder holds one file a split, named `train` and `validation` (or `valid`, `dev`). A single file, or a folder with
only one of the two, serves both splits: then `read_split` cuts it so that no calibration row is an evaluation row.
Files are parsed as plain data; nothing in them is executed, nothing is cached, and the network is not used.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no types
import pyarrow.csv  # type: ignore[import-untyped]
import pyarrow.json  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
from datasets import Dataset

from trimformer.data.rows import Split
from trimformer.errors import DataError, first_line

FILE_STEMS: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("validation", "valid", "dev")}
VALIDATION_SHARE = 0.2


def read_rows(source: str, split: Split) -> Dataset:
    """Read all rows of the file that serves a split: `source` itself if it is a file, whichever split is asked.

    Raises:
        DataError: no such file, an unknown ending, several files for one split, a damaged file, or no rows.
    """
    file = _file_of_split(Path(source), split)
    try:
        table = READERS[file.suffix.lower()](file)
    except (ValueError, OSError) as error:
        raise DataError(f"cannot read {file}: {first_line(error)}; mend or re-create the file") from error
    if table.num_rows == 0:
        raise DataError(f"no rows in {file}: give a file with at least one row")
    return Dataset(table)


def read_split(source: str, split: Split, seed: int = 0) -> Dataset:
    """Read the rows of one split; where one file serves both, no row is in the other split too.

    Two files are taken as they are; one file is divided by `split_rows`, so that asking for `train` and for
    `validation` never gives the same row.

    Raises:
        DataError: as `read_rows` and `split_rows`.
    """
    rows = read_rows(source, split)
    if len({_file_of_split(Path(source), name) for name in get_args(Split)}) > 1:
        return rows
    try:
        return split_rows(rows, seed)[split]
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def split_rows(rows: Dataset, seed: int = 0) -> dict[Split, Dataset]:
    """Divide rows at random into 80 % train and 20 % validation (at least one row each).

    The same rows and seed give the same division. A row that occurs several times never lies on both sides: train
    rows that equal a validation row are dropped.

    Raises:
        DataError: fewer than two distinct rows.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    validation = order[: max(1, round(VALIDATION_SHARE * len(rows)))]
    contents = [json.dumps(row, default=str) for row in rows]
    held_out = {contents[index] for index in validation}
    train = [index for index in order if contents[index] not in held_out]
    if not train:
        raise DataError(
            f"{len(rows)} rows cannot serve both calibration and evaluation: no distinct rows are left for "
            "calibration; give more rows, or a folder with a train and a validation file"
        )
    return {"train": rows.select(sorted(train)), "validation": rows.select(sorted(validation))}


def _read_json_lines(file: Path) -> pa.Table:
    content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return _parse_json_lines(content)
    except ValueError as error:
        for number, line in enumerate(content.splitlines(), start=1):
            if problem := _line_problem(line):
                raise ValueError(f"line {number} is damaged, {problem}") from error
        raise ValueError(f"{error} (the first row is row 0)") from error


def _line_problem(line: bytes) -> str | None:
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except ValueError as error:
        return str(error)
    return None if isinstance(row, dict) else "not an object like {…}"


def _read_json(file: Path) -> pa.Table:
    try:
        content = json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        return _read_json_lines(file)
    rows = content.get("data", [content]) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("neither a list of objects nor an object whose 'data' is one")
    return _parse_json_lines("\n".join(map(json.dumps, rows)).encode())


def _parse_json_lines(content: bytes) -> pa.Table:
    if not content.strip():
        return pa.table({})
    one_block = pa.json.ReadOptions(use_threads=False, block_size=min(len(content) + 1, 2**31 - 1))
    return pa.json.read_json(io.BytesIO(content), read_options=one_block)


def _read_text(file: Path) -> pa.Table:
    return pa.table({"text": [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]})


READERS: Mapping[str, Callable[[Path], pa.Table]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": partial(
        pa.csv.read_csv,
        read_options=pa.csv.ReadOptions(use_threads=False),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
    ),
    ".parquet": pa.parquet.read_table,
    ".txt": _read_text,
}
"""Parsers of files, by ending. A `.txt` file has one row a line in column `text`; blank lines are left out."""


def _file_of_split(source: Path, split: Split) -> Path:
    """Find the file that serves a split; in a folder without one, the file of the other split.

    Raises:
        DataError: no such file, an unknown ending, or several files for one split.
    """
    if not source.exists():
        raise DataError(f"no file or folder {source}: check the path")
    if source.is_file():
        if source.suffix.lower() not in READERS:
            raise DataError(f"unknown ending of {source}: use {', '.join(READERS)}")
        return source
    other: Split = "train" if split == "validation" else "validation"
    for stem in FILE_STEMS[split] + FILE_STEMS[other]:
        files = sorted(file for file in source.glob(f"{stem}.*") if file.suffix.lower() in READERS)
        if len(files) > 1:
            raise DataError(f"{source} has {', '.join(file.name for file in files)}: leave one file for each split")
        if files:
            return files[0]
    raise DataError(f"{source} has no train or validation file ending in {', '.join(READERS)}: add one, or name a file")
