"""Translate messages of the core, which name parameters as Python does, into the running command's own options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import Any

from trimformer import plugins

NAMED = re.compile(r"`([a-z]\w*)(?:=([^`]*))?`")
"""A parameter in backticks, with or without its value."""
ANY_VALUE = "…"
ENTRY = re.compile(r"\{'(\w+)': (.*)\}")
"""A dictionary with one entry, as Python writes it."""


@dataclass(frozen=True)
class Dialect:
    """The words of one command for Python's parameters.

    >>> Dialect({"seed": "--seed"}).spoken("`seed=-1` is out of range, see `Pruner`")
    '--seed -1 is out of range, see `Pruner`'
    >>> Dialect({"column": "--column"}).spoken("`columns={'text': 'Review'}`: rows.csv has no column 'Review'")
    "--column text=Review: rows.csv has no column 'Review'"
    """

    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the command, by the names that Python gives them."""
    flags: frozenset[str] = frozenset()
    """Names, in Python, of those that take no value."""

    def spoken(self, message: str) -> str:
        """Translate a message: each parameter as it is typed; names that the command does not have stay as they are."""
        return NAMED.sub(self._translated, message)

    def _translated(self, found: re.Match[str]) -> str:
        name, value = found[1], None if found[2] is None else _typed(found[2])
        option = self.options.get(name)
        if option is None and (repeated := self.options.get(name.removesuffix("s"))):
            entry = ENTRY.fullmatch(value or "")
            return f"{repeated} {entry[1]}={_typed(entry[2])}" if entry else repeated
        if option is None:
            carrier = self._carrier(name)
            return f"{carrier} {name}={ANY_VALUE if value is None else value}" if carrier else found[0]
        if name in self.flags:
            return option if value in (None, "true") else found[0]
        return option if value is None else f"{option} {value}"

    def _carrier(self, name: str) -> str | None:
        """Find the option that takes `name=value`, if this is an option of a method or an argument of training."""
        if "set" in self.options and any(name in _fields(method) for method in plugins.provided("methods").values()):
            return self.options["set"]
        if "train" in self.options and name in _training_arguments():
            return self.options["train"]
        return None


_SPOKEN: ContextVar[Dialect] = ContextVar("dialect")


def spoken(message: str) -> str:
    """Translate a message into the dialect of the command that runs; where none runs, it stays as it is."""
    return _SPOKEN.get(Dialect()).spoken(message)


@contextmanager
def speaking(dialect: Dialect) -> Iterator[None]:
    """Within the context, `spoken` uses this dialect."""
    before = _SPOKEN.set(dialect)
    try:
        yield
    finally:
        _SPOKEN.reset(before)


def of_command(command: Any) -> Dialect:
    """Read the dialect of a command off its options in typer; None speaks Python."""
    named = [
        (flag.removeprefix("--").replace("-", "_"), flag, getattr(parameter, "is_flag", False))
        for parameter in getattr(command, "params", ())
        for flag in parameter.opts
        if flag.startswith("--")
    ]
    return Dialect({name: flag for name, flag, _ in named}, frozenset(name for name, _, is_flag in named if is_flag))


def _typed(value: str) -> str:
    """Write a value of Python as it is typed: `"surgeon"` is surgeon, False is false."""
    if value in ("True", "False"):
        return value.lower()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def _fields(method: Any) -> set[str]:
    return {option.name for option in fields(method)}


def _training_arguments() -> set[str]:
    from transformers import TrainingArguments

    from trimformer.training.finetune import FineTuning

    return _fields(TrainingArguments) | _fields(FineTuning) - {"arguments"}
