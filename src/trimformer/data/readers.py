"""Parsers of files, by ending: plain data becomes a table; nothing is executed, and the network is not used.

Each is given a file's content, unpacked where the file ends in `.gz`. What it cannot parse is an error of any kind.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no types
import pyarrow.csv  # type: ignore[import-untyped]
import pyarrow.json  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from trimformer.errors import DataError, first_line, reading

PACKED = ".gz"
ALWAYS_UNPACKED, MOST_TIMES = 64 * 2**20, 200
"""Bytes that any packed file may have unpacked, and how many more for each packed byte: text has 3 to 30."""
SEPARATORS = ",;\t|"
"""What may separate the columns of a `.csv` file."""
MOST_NESTED = 100
"""Lists and objects within each other in a row of JSON: far below what ends pyarrow's parser, and with it Python."""
LOOKED_AT = 50
"""Rows of a `.csv` file that are looked at to tell its separator."""


def ending_of(file: Path) -> str:
    """Give the ending that says how a file is parsed, without that of its packing.

    >>> ending_of(Path("Reviews.CSV")), ending_of(Path("rows.jsonl.gz"))
    ('.csv', '.jsonl')
    """
    inner = Path(file.stem) if file.suffix.lower() == PACKED else file
    return inner.suffix.lower()


def read_table(file: Path) -> pa.Table:
    """Parse a file by its ending.

    Raises:
        DataError: it is damaged, in another encoding than UTF-8, or two of its columns have the same name.
    """
    with reading(file, "mend or re-create the file"):
        content = file.read_bytes()
        table = READERS[ending_of(file)](_unpacked(content) if file.suffix.lower() == PACKED else content)
    twice = [name for name in table.column_names if table.column_names.count(name) > 1]
    if twice:
        raise DataError(f"cannot read {file}: it has several columns {twice[0]!r}; give each a name of its own")
    return table


def _unpacked(content: bytes) -> bytes:
    most = ALWAYS_UNPACKED + MOST_TIMES * len(content)
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
        found = packed.read(most + 1)
    if len(found) > most:
        raise ValueError(f"it unpacks to more than {MOST_TIMES} times its size; unpack it first if that is meant")
    return found


def utf8(content: bytes) -> bytes:
    """Give a text file's content as UTF-8 without its mark; UTF-16, which says by its mark that it is, is converted.

    Raises:
        ValueError: another encoding; names the line and the byte.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16").encode()
    own = content.removeprefix(codecs.BOM_UTF8)
    try:
        own.decode()
    except UnicodeDecodeError as error:
        line = own[: error.start].count(b"\n") + 1
        raise ValueError(
            f'line {line} is not UTF-8 (byte 0x{own[error.start]:02x}): save the file as UTF-8, in Excel as "CSV '
            'UTF-8", or convert it, `iconv -f latin1 -t utf-8`'
        ) from error
    return own


def _separator(text: str) -> str:
    """Tell what separates columns: of what splits the header, what splits most of the next rows into as many parts."""

    def fits(separator: str) -> tuple[float, int]:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        counts = [len(row) for row, _ in zip(rows, range(LOOKED_AT), strict=False) if row]
        return (counts.count(counts[0]) / len(counts), counts[0]) if counts and counts[0] > 1 else (0.0, 0)

    return max(SEPARATORS, key=fits)


def _read_separated(content: bytes, separator: str | None = None) -> pa.Table:
    text = utf8(content)
    return pa.csv.read_csv(
        io.BytesIO(text),
        read_options=pa.csv.ReadOptions(use_threads=False),
        parse_options=pa.csv.ParseOptions(
            delimiter=separator or _separator(text.decode()), newlines_in_values=True, ignore_empty_lines=True
        ),
    )


def _read_json_lines(content: bytes) -> pa.Table:
    text = utf8(content)
    try:
        return _parse_json_lines(text)
    except ValueError as error:
        for number, line in enumerate(text.splitlines(), start=1):
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


def _read_json(content: bytes) -> pa.Table:
    text = utf8(content)
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        return _read_json_lines(text)
    rows = parsed.get("data", [parsed]) if isinstance(parsed, dict) else parsed
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("neither a list of objects nor an object whose 'data' is one")
    return _parse_json_lines("\n".join(map(json.dumps, rows)).encode())


def _parse_json_lines(content: bytes) -> pa.Table:
    if not content.strip():
        return pa.table({})
    for number, line in enumerate(content.splitlines(), start=1):
        if line.lstrip().startswith(b"null"):  # where it is the first row, it ends pyarrow's parser, and with it Python
            raise ValueError(f"row {number} is null, not an object like {{…}}")
        if line.count(b"[") + line.count(b"{") > MOST_NESTED and _depth(json.loads(line)) > MOST_NESTED:
            raise ValueError(f"row {number} has more than {MOST_NESTED} lists and objects within each other")
    one_block = pa.json.ReadOptions(use_threads=False, block_size=min(len(content) + 1, 2**31 - 1))
    return pa.json.read_json(io.BytesIO(content), read_options=one_block)


def _depth(value: object) -> int:
    """Count the lists and objects within each other, level by level."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, (list, dict))]:
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
        depth += 1
    return depth


def _read_text(content: bytes) -> pa.Table:
    return pa.table({"text": [line for line in utf8(content).decode().splitlines() if line.strip()]})


def _read_parquet(content: bytes) -> pa.Table:
    table = pa.parquet.read_table(pa.BufferReader(content))
    table.validate(full=True)  # reading checks neither that texts are UTF-8 nor that lists lie within their values
    return table


def _read_workbook(content: bytes) -> pa.Table:
    """Read the first sheet of a workbook: names of columns in its first row; a column with a text is one of texts."""
    if find_spec("openpyxl") is None:
        raise ValueError(
            "a workbook needs openpyxl, not installed here: pip install 'trimformer[xlsx]', or save it as CSV"
        )
    openpyxl = import_module("openpyxl")
    try:
        sheet = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True).worksheets[0]
    except (KeyError, zlib.error, import_module("zipfile").BadZipFile) as error:
        raise ValueError(f"no workbook, {first_line(error)}") from error
    header, *rows = [row for row in sheet.iter_rows(values_only=True) if any(cell is not None for cell in row)] or [()]
    named = [place for place, name in enumerate(header) if name is not None]
    columns = {place: [row[place] if place < len(row) else None for row in rows] for place in named}
    return pa.Table.from_arrays(
        [pa.array(_of_one_kind(columns[place])) for place in named], names=[str(header[place]) for place in named]
    )


def _of_one_kind(cells: list[object]) -> list[object]:
    """Make texts of all cells of a column where one is a text; else they stay."""
    if not any(isinstance(cell, str) for cell in cells):
        return cells
    return [cell if cell is None else str(cell) for cell in cells]


READERS: Mapping[str, Callable[[bytes], pa.Table]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_separated,
    ".tsv": partial(_read_separated, separator="\t"),
    ".parquet": _read_parquet,
    ".xlsx": _read_workbook,
    ".txt": _read_text,
}
"""Parsers by ending. A `.txt` file has one row a line in column `text`; blank lines are left out."""
ENDINGS = f"{', '.join(READERS)}, each also with {PACKED}"
"""All endings, for messages."""
