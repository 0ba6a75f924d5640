"""The manifest's plain form: records become JSON that a person can read, and JSON becomes records again, checked."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
import transformers

from trimformer.errors import DataError, first_line
from trimformer.model.trimformer_checks import ENTRY, MANIFEST, listed_files

NUMBERS_ONE_A_LINE = re.compile(r'\[\n\s+([^\[\]{}"]*?)\n\s+\]')
IN_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "keys",
}


def as_text(facts: Any) -> str:
    """Write indented JSON, with every list of numbers in one line.

    >>> print(as_text({"curve": [0.0, 1.5], "tokens": 7}), end="")
    {
      "curve": [0.0, 1.5],
      "tokens": 7
    }
    """
    return NUMBERS_ONE_A_LINE.sub(_in_one_line, json.dumps(facts, indent=2)) + "\n"


def _in_one_line(numbers: re.Match[str]) -> str:
    return f"[{' '.join(numbers[1].split())}]"


def plain(value: Any) -> Any:
    """Turn records into what JSON has: dataclasses into dictionaries, tuples into lists.

    A field that is None, and would be None if nobody had given it, is left out, and so is one that does not count where
    records are compared. A class whose JSON is not that of its fields has `as_json` and `from_json`.
    """
    if hasattr(value, "as_json"):
        return value.as_json()
    if is_dataclass(value):
        known = {each.name: (each, getattr(value, each.name)) for each in fields(value) if each.compare}
        return {name: plain(own) for name, (each, own) in known.items() if own is not None or each.default is not None}
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


def read(kind: Any, value: Any, where: str = "") -> Any:
    """Read a value of some type from what JSON has; the opposite of `plain`.

    Keys that a record does not know are left out; null where a number must be is NaN, which JSON does not have.

    Args:
        kind: a dataclass, or a type as its fields have: `float | None`, `Mapping[str, int]`, `tuple[int, ...]`.
        value: from `json.load`.
        where: the path to the value, for messages.

    Raises:
        DataError: a key is missing, or something of another type is there; names the path to it.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if hasattr(kind, "from_json"):
        return kind.from_json(value, where)
    if is_dataclass(kind):
        return _read_record(kind, value, where)
    if origin in (Union, UnionType):
        (other,) = (each for each in arguments if each is not NoneType)
        return None if value is None else read(other, value, where)
    if origin is not None:
        return _read_many(origin, arguments, value, where)
    if kind is float:
        return math.nan if value is None else float(checked(float, value, where))
    return value if kind is Any else checked(kind, value, where)


def checked(kind: type, value: Any, where: str) -> Any:
    """Give a value back if it is of a type that JSON has; a whole number is a number as well.

    Raises:
        DataError: it is of another type; names `where` it is.
    """
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        raise DataError(f"{where or 'the content'} is {json.dumps(value)[:40]}, not {IN_WORDS[kind]}")
    return value


def _read_many(kind: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if kind is tuple:
        entries = checked(list, value, where)
        return tuple(read(arguments[0], entry, f"{where}[{number}]") for number, entry in enumerate(entries))
    return {key: read(arguments[1], entry, _below(where, key)) for key, entry in checked(dict, value, where).items()}


def _read_record(kind: Any, value: Any, where: str) -> Any:
    entries, types, found = checked(dict, value, where), get_type_hints(kind), {}
    for field in fields(kind):
        if field.name in entries:
            found[field.name] = read(types[field.name], entries[field.name], _below(where, field.name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise DataError(f"{_below(where, field.name)} is missing")
    return kind(**found)


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def read_manifest(folder: str | Path, *, changed: bool = False) -> dict[str, Any]:
    """Read the manifest of a folder, but for its list of files; an empty one where there is none.

    Args:
        folder: of a checkpoint.
        changed: read one that was changed since it was saved as well.

    Raises:
        DataError: it is no JSON, holds something else than keys, or is not as it was saved.
    """
    file = Path(folder) / MANIFEST
    if not file.is_file():
        return {}
    try:
        content = checked(dict, json.loads(file.read_text(encoding="utf-8")), str(file))
        if not changed:
            listed_files(Path(folder))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read ({first_line(error)}): make the result again") from error
    return {name: value for name, value in content.items() if name != ENTRY}


def versions() -> dict[str, str]:
    """Look up the versions of Python and the packages that a result depends on, by name."""
    return {
        "trimformer": version("trimformer"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
