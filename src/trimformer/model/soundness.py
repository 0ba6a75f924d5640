"""Checks of a checkpoint's files before they are loaded: what is damaged is told from what is a bug of ours.

A checkpoint is somebody else's file, and transformers, which reads it, raises nearly anything on what it does not
expect. Each such call stands here alone, and whatever it raises is about the file. What comes later is our own code's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError

from trimformer.data.hub import check_name, lookup
from trimformer.errors import CheckpointError, first_line

UNREADABLE = (OSError, ValueError, SafetensorError)
"""Errors that files raise which are absent, cut off or not of their format, whoever reads them."""
ANYTHING = (Exception,)
"""What a library may raise while it reads somebody's file: no code of ours runs inside."""
LONGEST = 200
"""Most characters of somebody else's error that are repeated."""
MOST = {"layer": 10_000, "block": 10_000, "label": 1_000_000}
"""Most that a config may ask for, by a word in the entry's name: transformers makes lists of that length first."""
_trusts: ContextVar[bool] = ContextVar("trusts", default=False)


@contextmanager
def trusting(*, trusts: bool) -> Iterator[None]:
    """Within the context, code that lies in a checkpoint runs if it is trusted; else, and without, it never does."""
    before = _trusts.set(trusts)
    try:
        yield
    finally:
        _trusts.reset(before)


def trusts_code() -> bool:
    """Tell whether code that lies in a checkpoint may run."""
    return _trusts.get()


@contextmanager
def naming(name: str, errors: tuple[type[Exception], ...] = UNREADABLE, what: str = "") -> Iterator[None]:
    """Within the context, turn errors into one line that names the checkpoint and says what to do.

    Args:
        name: a checkpoint folder or a hub name.
        errors: what is caught.
        what: is wrong, to be said before the error's own words.

    Raises:
        CheckpointError: any of them came.
    """
    try:
        yield
    except errors as error:
        raise damaged(name, f"{what}: {in_short(error)}" if what else in_short(error)) from error


def in_short(error: Exception) -> str:
    """Give an error's first line, cut where it is long; with the next one where it only announces that."""
    lines = str(error).strip().splitlines()
    announces = len(lines) > 1 and lines[0].endswith(":")
    return f"{lines[0]} {lines[1].strip()}"[:LONGEST] if announces else first_line(error)[:LONGEST]


def damaged(name: str | Path, why: str) -> CheckpointError:
    """Make an error that names a checkpoint and says what is wrong and what to do."""
    known, mend = (
        ("is damaged or incomplete", "make or download it again")
        if Path(name).is_dir()
        else ("is no local folder and cannot be had from the hub", "check the path or name, and the connection")
    )
    return CheckpointError(f"{name} {known}: {why}; {mend}")


def read_json(file: Path) -> Any:
    """Read a JSON file of a checkpoint folder.

    Raises:
        CheckpointError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(file.parent, f"{file.name} cannot be read, {first_line(error)}") from error


def read_config(name: str) -> Any:
    """Read the config of a checkpoint by transformers, and check the fields that it trusts.

    Raises:
        CheckpointError: no checkpoint, or no config that transformers can read, or only with code that lies in it.
    """
    _check_folder(name)
    with _naming_code(name, "config.json cannot be read"):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trusts_code(), **lookup(name))
    for field, fits, says in _FIELDS:
        value = getattr(config, field, None)
        if value is not None and not fits(value):
            raise damaged(name, f"config.json has {field}={value!r:.200}, which must be {says}")
    return config


@contextmanager
def _naming_code(name: str, what: str) -> Iterator[None]:
    """Within the context, as `naming` of anything; an error that asks for trust in a checkpoint's code says how."""
    try:
        with naming(name, ANYTHING, what if Path(name).is_dir() else ""):
            yield
    except CheckpointError as error:
        if "trust_remote_code" not in str(error.__cause__):
            raise
        raise CheckpointError(
            f"{name} needs code that lies in it, which runs only if it is trusted: read it, then give "
            "`trust_remote_code=True`"
        ) from error


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _names_a_method(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("quant_method", ""), str)


_FIELDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("architectures", _are_names, "a list of class names"),
    ("auto_map", lambda value: isinstance(value, dict), "an object"),
    ("quantization_config", _names_a_method, "an object with a quant_method"),
)
"""Fields that transformers trusts to be of their type: name, a test of the value, and what it must be."""


def read_tokenizer(name: str) -> Any:
    """Read the tokenizer of a checkpoint by transformers.

    Raises:
        CheckpointError: there is none that transformers can read, or only with code that lies in it.
    """
    _check_folder(name)
    with _naming_code(name, "its tokenizer cannot be read"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=trusts_code(), **lookup(name))
    if not isinstance(tokenizer.model_max_length, (int, float)):
        raise damaged(name, f"tokenizer_config.json has model_max_length={tokenizer.model_max_length!r:.50}, no number")
    return tokenizer


def _check_folder(name: str) -> None:
    check_name(name)
    folder = Path(name)
    if folder.is_file() or (folder.is_dir() and not (folder / "config.json").exists()):
        raise CheckpointError(f"{name} is not a checkpoint: a folder with config.json and *.safetensors is needed")
    config = read_json(folder / "config.json") if folder.is_dir() else {}
    if not isinstance(config, dict):
        raise damaged(name, "config.json must be an object")
    for field, value in config.items():
        limits = [most for word, most in MOST.items() if re.search(word, field)]
        if isinstance(value, int) and any(value > most for most in limits):
            raise damaged(name, f"config.json has {field}={value}, more than any model has")
