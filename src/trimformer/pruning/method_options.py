"""A method from its name and its options, which may be given as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from trimformer import plugins
from trimformer.errors import InvalidOption, LabelError, unknown_name
from trimformer.pruning.contract import Method


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """A method with its options; options given as text are converted to their type.

    Raises:
        InvalidOption: an unknown method or option, or a value of the wrong type or range.
    """
    kind = plugins.load("methods", name)
    types = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    method: Method = kind(**{option: _convert(option, value, types[option]) for option, value in options.items()})
    return method


@dataclass(frozen=True)
class _Type:
    """How an option's text is read, and what is said when it cannot be."""

    read: Any
    says: str


def _truth(value: Any) -> bool:
    text = str(value).lower()
    if text not in {"true", "false"}:
        raise ValueError(text)
    return text == "true"


_TYPES = {
    bool: _Type(_truth, "true or false"),
    int: _Type(int, "a whole number"),
    float: _Type(float, "a number"),
    str: _Type(str, "text"),
}


def _convert(name: str, value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    if choices:
        if value not in choices:
            raise InvalidOption(f"{name}={value!r} must be one of {', '.join(map(str, choices))}")
        return value
    try:
        return _TYPES[kind].read(value)
    except (ValueError, TypeError):  # the second from int() and float(), where Python users give neither
        raise InvalidOption(f"{name}={value!r} must be {_TYPES[kind].says}") from None


@contextmanager
def asked_by(method: str) -> Iterator[None]:
    """Within the context, an error of missing labels says who needs them, and which methods need none."""
    try:
        yield
    except LabelError as error:
        without = [name for name, kind in plugins.provided("methods").items() if not kind.needs_labels]
        raise LabelError(f"{method} needs labels, but {error}; methods that need none: {', '.join(without)}") from error
