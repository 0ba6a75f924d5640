"""Make a method from its name and its options, which may be given as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, make_dataclass
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from trimformer import plugins
from trimformer.errors import InvalidOption, LabelError, unknown_name
from trimformer.pruning.contract import Method


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """Make a method with its options; options given as text are converted to their type.

    Raises:
        InvalidOption: an unknown method or option, or a value of the wrong type or range.
    """
    method: Method = make_plugin("methods", name, options)
    return method


def make_plugin(folder: plugins.Folder, name: str, options: Mapping[str, Any]) -> Any:
    """Make a plug-in whose options are its fields, as a method or a recipe, as `make_method` does.

    Raises:
        InvalidOption: no such name or option, or a value of the wrong type or range.
    """
    kind = plugins.load(folder, name)
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    return kind(**{option: read_option(kind, option, value) for option, value in options.items()})


def check_needs_no_labels(method: str, instead: str) -> None:
    """Refuse a method that needs labels, where none are looked at; `instead` is one that would do.

    Raises:
        InvalidOption: it needs some, or there is no such method.
    """
    if plugins.load("methods", method).needs_labels:
        raise InvalidOption(f"{method} needs labels and a fine-tuned model: choose a method without, such as {instead}")


def read_option(kind: Any, name: str, value: Any) -> Any:
    """Convert a value, text or not, to the type of a dataclass's field, by transformers' argument parser.

    Raises:
        InvalidOption: the value cannot be of that type; says what it must be.
    """
    declared = get_type_hints(kind)[name]
    if value is None and type(None) in get_args(declared):
        return None
    text = str(value)
    if declared is bool and text.lower() not in ("true", "false"):
        text = "neither"  # the parser takes `y` and `1` as well
    option: Any = make_dataclass("Option", [(name, declared, None)])
    parser = _Parser([option], allow_abbrev=False, add_help=False)
    try:
        return getattr(parser.parse_args([f"--{name}={text}"]), name)
    except InvalidOption as error:
        raise InvalidOption(f"`{name}={value!r}` {_must_be(declared) or error}") from None


def _must_be(declared: Any) -> str | None:
    if get_origin(declared) is Literal:
        return f"must be one of {', '.join(map(str, get_args(declared)))}"
    kind = next((kind for kind in get_args(declared) if type(None) in get_args(declared)), declared)
    called = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind)
    return called and f"must be {called}"


class _Parser(HfArgumentParser):
    """Parser that raises what is wrong, where other parsers print it and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, without the option's name."""
        raise InvalidOption(f"cannot be read: {message.partition(': ')[2]}")


@contextmanager
def asked_by(method: str) -> Iterator[None]:
    """Within the context, an error of missing labels says who needs them, and which methods need none."""
    try:
        yield
    except LabelError as error:
        without = [name for name, kind in plugins.provided("methods").items() if not kind.needs_labels]
        raise LabelError(f"{method} needs labels, but {error}; methods that need none: {', '.join(without)}") from error
