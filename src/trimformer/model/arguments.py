"""Arguments of Python functions, checked before any work: what is of another kind is refused with what to give."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from trimformer.errors import InvalidOption


def check_tokenizer(given: Any, *, needed: bool = False) -> None:
    """Refuse what is no tokenizer of transformers; None is one that nobody gave.

    Raises:
        InvalidOption: says what to give.
    """
    if isinstance(given, PreTrainedTokenizerBase) or (given is None and not needed):
        return
    if isinstance(given, (str, PathLike)):
        raise InvalidOption(f"`tokenizer={told(given)}` is a name: load it first, load_tokenizer({str(given)!r})")
    inner = getattr(given, "tokenizer", None)
    if isinstance(inner, PreTrainedTokenizerBase):
        raise InvalidOption(f"`tokenizer={told(given)}` is no tokenizer, but has one: give its .tokenizer")
    remedy = (
        "PreTrainedTokenizerFast(tokenizer_object=…)" if type(given).__module__ == "tokenizers" else "load_tokenizer"
    )
    raise InvalidOption(f"`tokenizer={told(given)}` is no tokenizer of transformers: make one, with {remedy}")


def check_path(name: str, given: Any) -> None:
    """Refuse what is no path or name.

    Raises:
        InvalidOption: names the argument.
    """
    if not isinstance(given, (str, PathLike)) or not str(given).strip():
        raise InvalidOption(f"`{name}={told(given)}` must be the path of a folder, as text or Path")


def check_flag(name: str, given: Any) -> None:
    """Refuse what is neither True nor False.

    Raises:
        InvalidOption: names the argument.
    """
    if not isinstance(given, bool):
        raise InvalidOption(f"`{name}={told(given)}` must be true or false")


def check_mapping(name: str, given: Any, example: str) -> None:
    """Refuse what is no dictionary with texts as keys; None is one that nobody gave.

    Raises:
        InvalidOption: names the argument, and gives an example.
    """
    if given is not None and not (isinstance(given, Mapping) and all(isinstance(key, str) for key in given)):
        raise InvalidOption(f"`{name}={told(given)}` must be a dictionary such as {example}")


def check_torch_dtype(given: Any) -> None:
    """Refuse what is no floating-point type of PyTorch's; None is one that nobody gave.

    Raises:
        InvalidOption: says what to give.
    """
    if given is not None and not (isinstance(given, torch.dtype) and given.is_floating_point):
        raise InvalidOption(f"`dtype={told(given)}` must be a floating-point type such as torch.float16")


def told(given: Any) -> str:
    """Write a value in one short line: a class or an object of somebody else's by the name of its class."""
    if isinstance(given, type):
        return f"{given.__name__} (a class)"
    if isinstance(given, torch.dtype):
        return str(given)
    own = isinstance(given, (str, bytes, int, float, list, tuple, dict, set, PathLike, type(None)))
    return " ".join(reprlib.repr(given).split()) if own else f"{type(given).__name__}(…)"
