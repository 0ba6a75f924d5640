"""The texts and encoded rows that `trim_vocabulary` is given, checked: the first that is of another kind is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from trimformer.errors import DataError, InvalidOption
from trimformer.model.arguments import told


def check_texts(name: str, given: Any) -> None:
    """Refuse what is no list of texts.

    Raises:
        InvalidOption: it is one text, or no list.
        DataError: an entry is something else than text.
    """
    if isinstance(given, str):
        raise InvalidOption(f"`{name}` is one text, {told(given)}: give a list of texts")
    if not (hasattr(given, "__len__") and hasattr(given, "__getitem__")) or isinstance(given, (bytes, dict)):
        raise InvalidOption(f"`{name}={told(given)}` must be a list of texts")
    for number, text in enumerate(given, start=1):
        if not isinstance(text, str):
            raise DataError(f"`{name}`: entry {number} is {told(text)}, not text; leave it out")


def checked_rows(given: Any) -> list[Sequence[int]]:
    """List encoded rows.

    Raises:
        InvalidOption: they are no rows of token ids; names the first that is none.
    """
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        raise InvalidOption(f"`encoded_rows={told(given)}` must be rows of token ids")
    rows = list(given)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Iterable) or isinstance(row, (str, bytes)):
            raise InvalidOption(f"`encoded_rows`: entry {number} is {told(row)}, not a row of token ids")
    return rows
