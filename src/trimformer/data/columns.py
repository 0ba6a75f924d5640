"""Columns of rows, checked: that they are there under the names that a task knows, and hold texts or numbers."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray

from trimformer.errors import DataError, as_given

TEXT_COLUMNS = (("text",), ("sentence",), ("sentence1", "sentence2"), ("question", "context"), ("content",))
"""What columns of text are called where nobody says: one, or two of pairs."""
STRINGS = ("string", "large_string")
"""Types of a column of texts."""
_named: ContextVar[Mapping[str, str] | None] = ContextVar("named", default=None)


@contextmanager
def naming_columns(names: Mapping[str, str] | None) -> Iterator[None]:
    """Within the context, rows that are read have some columns under other names.

    Args:
        names: by the name that a task knows, such as `text`, what the column is called in the rows; None changes none.
    """
    before = _named.set(names)
    try:
        yield
    finally:
        _named.reset(before)


def renamed(rows: Dataset) -> Dataset:
    """Call columns as `naming_columns` says; one that had such a name before is left out.

    Raises:
        DataError: rows do not have a column, or it is to have two names; names the nearest that they have.
    """
    names, place = _named.get() or {}, place_of(rows)
    for name, own in names.items():
        if own not in rows.column_names:
            said, nearest = {name: own}, _nearest(own, rows.column_names)
            raise DataError(f"`columns={said}`: {place} has no column {own!r}{nearest}")
    own_names = list(names.values())
    twice = [own for own in own_names if own_names.count(own) > 1]
    if twice:
        raise DataError(f"`columns` gives {twice[0]!r} two names: give each column of {place} one")
    replaced = [name for name in names if name in rows.column_names and name not in own_names]
    new = {own: name for name, own in names.items() if own != name}
    return rows.remove_columns(replaced).rename_columns(new) if new else rows


def located(rows: Dataset, place: str) -> Dataset:
    """Let rows know where they come from, for messages; so do those that are chosen of them."""
    rows.info.dataset_name = place
    return rows


def select_rows(rows: Dataset, places: ArrayLike) -> Dataset:
    """Choose rows by place, so that `row_names` still knows them: `select` alone forgets where a slice began."""
    wanted = np.asarray(places, dtype=np.int64)
    return rows.select(np.append(wanted, wanted[:1])).select(range(len(wanted)))


def place_of(rows: Dataset) -> str:
    """Say where rows come from: what `located` was told, or the name that a dataset on the hub has."""
    info = rows.info
    return info.dataset_name if info.dataset_name not in (None, info.builder_name) else "the data"


def _nearest(name: str, known: Sequence[str]) -> str:
    by_lower = {other.lower(): other for other in known}
    found = get_close_matches(name.lower(), by_lower, n=1) or [other for other in by_lower if name.lower() in other]
    near = [by_lower[other] for other in found]
    return f"; {f'did you mean {near[0]!r}? ' if near else ''}it has {', '.join(map(repr, known))}"


def require_columns(rows: Dataset, columns: Sequence[str]) -> None:
    """Refuse rows that lack any of these columns; raises `DataError` as `choose_columns` does."""
    choose_columns(rows, [tuple(columns)])


def choose_columns(rows: Dataset, alternatives: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Choose the first alternative whose columns all exist.

    Raises:
        DataError: none of them does; names the columns that are there.
    """
    for columns in alternatives:
        if set(columns) <= set(rows.column_names):
            return columns
    wanted = " or ".join(" + ".join(map(repr, columns)) for columns in alternatives)
    named = {_missing(rows, alternatives[0]): "…"}
    raise DataError(
        f"{place_of(rows)} has no column {wanted}; it has {', '.join(map(repr, rows.column_names))}: "
        f"say which it is, such as `columns={named}`, or check that the data fits the task"
    )


def _missing(rows: Dataset, columns: Sequence[str]) -> str:
    return next(name for name in columns if name not in rows.column_names)


def has_columns(rows: Dataset, alternatives: Sequence[tuple[str, ...]]) -> bool:
    """Tell whether all columns of one of the alternatives exist."""
    return any(set(columns) <= set(rows.column_names) for columns in alternatives)


def row_names(rows: Dataset) -> list[str]:
    """Say where each row comes from: the place, and its number there from 1; of one file that is divided, in the file.

    >>> row_names(select_rows(located(Dataset.from_dict({"text": ["a", "b"]}), "some.csv"), [1]))
    ['some.csv, row 2']
    """
    place, indices = place_of(rows), getattr(rows, "_indices", None)  # private, but datasets tell it nowhere else
    places = range(len(rows)) if indices is None else indices.column(0).to_pylist()
    return [f"{place}, row {index + 1}" for index in places]


def read_column(rows: Dataset, column: str) -> list[Any]:
    """Read a column at once, which takes far less time than going through it value by value."""
    return list(rows[column][:])


def texts(rows: Dataset, column: str) -> list[str]:
    """Read a column of strings.

    Raises:
        DataError: a row holds something else, or null; names the row and the value.
    """
    values = read_column(rows, column)
    for where, value in zip(row_names(rows), values, strict=True):
        if not isinstance(value, str):
            raise DataError(f"{where}: {column!r} is {reprlib.repr(value)}, not text; mend the row")
    return values


def all_texts(rows: Dataset, chosen: Sequence[str] = ()) -> list[str]:
    """Read every text of some rows, of all columns or those chosen; blank ones and other things are left out.

    Raises:
        DataError: no column holds text.
    """
    columns = [name for name in chosen or rows.column_names if getattr(rows.features[name], "dtype", "") in STRINGS]
    found = [value for name in columns for value in read_column(rows, name) if value is not None and value.strip()]
    if not found:
        raise DataError(f"{place_of(rows)} has no column with text; it has {', '.join(map(repr, rows.column_names))}")
    return found


def numbers(
    rows: Dataset, column: str, *, whole: bool = False, low: float = float("-inf"), high: float = float("inf")
) -> NDArray[Any]:
    """Read a column of finite numbers in `[low, high]`: `(rows,)`, int64 if `whole`, else float64.

    Raises:
        DataError: a row holds something else; names the row, the value and the range.
    """
    kinds: Any = int if whole else (int, float)
    values = read_column(rows, column)
    for where, value in zip(row_names(rows), values, strict=True):
        problem = None
        if value is None or (value == -1 and low > -1):
            problem = "the row is unlabelled; give labelled rows (the hub's GLUE test rows are not)"
        elif not isinstance(value, kinds) or isinstance(value, bool):
            problem = f"not a {'whole ' if whole else ''}number; convert the column"
        elif not (np.isfinite(value) and low <= value <= high):
            problem = f"outside {as_given(low)} to {as_given(high)}; mend the row, or check that the data fits the task"
        if problem:
            raise DataError(f"{where}: {column!r} is {reprlib.repr(value)}, {problem}")
    return np.asarray(values, dtype=np.int64 if whole else np.float64)
