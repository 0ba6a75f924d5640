"""What has columns -> lists of texts, or encoded rows: frames, dictionaries of columns, datasets, rows with names.

Which column is the text is known by its name, or said. Nothing is guessed: a table without such a column is refused,
with the columns that it has.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no types
from datasets import Dataset

from trimformer.data.columns import TEXT_COLUMNS
from trimformer.data.rows import TOKENS
from trimformer.errors import DataError, InvalidOption

Column: TypeAlias = str | Sequence[str] | None
"""The name of the column with the text, or of two of them, for pairs; None for one that `TEXT_COLUMNS` names."""
Table: TypeAlias = Mapping[str, Sequence[Any]]
"""Columns of the same length, by name."""
FRAMES = ("pandas", "polars")
"""Packages whose frames are read; neither is imported for that."""


def names_of(column: Column) -> tuple[str, ...] | None:
    """Read `column` as a tuple of names.

    Raises:
        InvalidOption: it is something else than one or two names.
    """
    names = (column,) if isinstance(column, str) else column
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or len(names) not in (1, 2) or not all(isinstance(n, str) for n in names):
        raise InvalidOption(f"`column={reprlib.repr(column)}` must be the name of a column with text, or two for pairs")
    return tuple(names)


def as_table(data: Any) -> Table | None:
    """Give the columns of a frame, a dataset or a dictionary; None for what has none.

    Raises:
        DataError: columns of different length, or something in the place of a column.
    """
    package = type(data).__module__.partition(".")[0]
    if isinstance(data, pa.Table):
        return {name: data[name].to_pylist() for name in data.column_names}
    if isinstance(data, Dataset):
        return {name: data[name] for name in data.column_names}
    if package in FRAMES and hasattr(data, "collect_schema") and hasattr(data, "collect"):
        raise DataError(f"data is a {type(data).__name__}, which is not computed yet: give what its collect() returns")
    if package in FRAMES and hasattr(data, "columns"):
        twice = [name for name in data.columns if list(data.columns).count(name) > 1]
        if twice:
            raise DataError(f"data has several columns {twice[0]!r}: give each a name of its own")
        return {str(name): data[name].to_list() for name in data.columns}
    return _of_dictionary(data) if isinstance(data, Mapping) else None


def _of_dictionary(data: Mapping[Any, Any]) -> Table:
    for name, values in data.items():
        if isinstance(values, (str, bytes)) or not (hasattr(values, "__len__") and hasattr(values, "__getitem__")):
            raise DataError(
                f"data is a dictionary, and {name!r} in it is {reprlib.repr(values)}: give a list for each column, or "
                "a list of texts"
            )
    lengths = {str(name): len(values) for name, values in data.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"the columns of data have different lengths: {told}; give one value a row in each")
    return {str(name): values for name, values in data.items()}


def rows_of(table: Table, column: Column) -> Iterator[Any]:
    """Give what a table has row by row: encoded rows, or texts; a pair is a tuple of two.

    Raises:
        DataError: there is no column of text that is known, or none of the name that was said.
    """
    if TOKENS in table and column is None:
        names = list(table)
        yield from (dict(zip(names, values, strict=True)) for values in zip(*table.values(), strict=True))
        return
    chosen = text_columns({name: next(iter(values), None) for name, values in table.items()}, column)
    columns = [table[name] for name in chosen]
    yield from columns[0] if len(columns) == 1 else zip(*columns, strict=True)


def text_columns(first: Mapping[str, Any], column: Column) -> tuple[str, ...]:
    """Choose the columns of text, of those that the first row has.

    Raises:
        DataError: there is no column of text that is known, or none of the name that was said.
    """
    asked, known = names_of(column), list(first)
    for names in TEXT_COLUMNS if asked is None else [asked]:
        if set(names) <= set(known):
            return names
    listed = ", ".join(map(repr, known))
    if asked is not None:
        raise DataError(f"data has no column {' or '.join(map(repr, asked))}; it has {listed}: name one of these")
    likely = max(known, key=lambda name: len(first[name]) if isinstance(first[name], str) else 0, default="name")
    raise DataError(
        f"data has the columns {listed}, and none of them is called {' or '.join('+'.join(n) for n in TEXT_COLUMNS)}: "
        f"say which holds the text, `column={likely!r}`"
    )
