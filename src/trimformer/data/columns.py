"""Columns of rows, checked: that they are there, and hold texts or numbers."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from trimformer.errors import DataError


def require_columns(rows: Dataset, columns: Sequence[str], source: str = "the data") -> None:
    """Refuse rows that lack any of these columns; raises `DataError` as `choose_columns` does."""
    choose_columns(rows, [tuple(columns)], source)


def choose_columns(rows: Dataset, alternatives: Sequence[tuple[str, ...]], source: str = "the data") -> tuple[str, ...]:
    """Choose the first alternative whose columns all exist.

    Raises:
        DataError: none of them does; names the columns that are there.
    """
    for columns in alternatives:
        if set(columns) <= set(rows.column_names):
            return columns
    wanted = " or ".join(" + ".join(map(repr, columns)) for columns in alternatives)
    raise DataError(
        f"{source} has no column {wanted}; it has {', '.join(map(repr, rows.column_names))}: "
        "rename one, or check that the data fits the task"
    )


def has_columns(rows: Dataset, alternatives: Sequence[tuple[str, ...]]) -> bool:
    """Tell whether all columns of one of the alternatives exist."""
    return any(set(columns) <= set(rows.column_names) for columns in alternatives)


def texts(rows: Dataset, column: str, source: str = "the data") -> list[str]:
    """Read a column of strings.

    Raises:
        DataError: a row holds something else, or null; names the row and the value.
    """
    values = list(rows[column])
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise DataError(f"{source}, row {number}: {column!r} is {reprlib.repr(value)}, not text; mend the row")
    return values


def all_texts(rows: Dataset, source: str = "the data") -> list[str]:
    """Read every text of some rows, whatever their columns; blank ones and columns of other things are left out.

    Raises:
        DataError: no column holds text.
    """
    columns = [name for name in rows.column_names if any(isinstance(value, str) for value in rows[name])]
    found = [value for name in columns for value in rows[name] if isinstance(value, str) and value.strip()]
    if not found:
        raise DataError(f"{source} has no column with text; it has {', '.join(map(repr, rows.column_names))}")
    return found


def numbers(
    rows: Dataset,
    column: str,
    source: str = "the data",
    *,
    whole: bool = False,
    low: float = float("-inf"),
    high: float = float("inf"),
) -> NDArray[Any]:
    """Read a column of finite numbers in `[low, high]`: `(rows,)`, int64 if `whole`, else float64.

    Raises:
        DataError: a row holds something else; names the row, the value and the range.
    """
    kinds: Any = int if whole else (int, float)
    for number, value in enumerate(rows[column], start=1):
        problem = None
        if value is None or (value == -1 and low > -1):
            problem = "the row is unlabelled; give labelled rows (the hub's GLUE test rows are not)"
        elif not isinstance(value, kinds) or isinstance(value, bool):
            problem = f"not a {'whole ' if whole else ''}number; convert the column"
        elif not (np.isfinite(value) and low <= value <= high):
            problem = f"outside {low:g} to {high:g}; mend the row, or check that the data fits the task"
        if problem:
            raise DataError(f"{source}, row {number}: {column!r} is {reprlib.repr(value)}, {problem}")
    return np.asarray(rows[column], dtype=np.int64 if whole else np.float64)
