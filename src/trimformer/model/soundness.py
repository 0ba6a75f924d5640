"""Checks of a checkpoint's files before they are loaded: what is damaged is told from what is a bug of ours.

A checkpoint is somebody else's file, and transformers, which reads it, raises nearly anything on what it does not
expect. Each such call stands here alone, with the errors that it raises. Whatever comes later comes from our own code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from trimformer.errors import CheckpointError, InvalidOption, first_line

INDEX = "model.safetensors.index.json"
UNREADABLE = (OSError, ValueError, SafetensorError)
"""Errors that files raise which are absent, cut off or not of their format, whoever reads them."""
_NO_CONFIG = (*UNREADABLE, StrictDataclassError, TypeError, KeyError, AttributeError, IndexError, ZeroDivisionError)
"""`UNREADABLE`, then errors of transformers' config classes where valid JSON holds something else."""
_NO_MODEL = (*_NO_CONFIG, RuntimeError, AssertionError)
"""`_NO_CONFIG`, then errors of transformers' and PyTorch's modules on sizes that make no model."""


@contextmanager
def naming(name: str, errors: tuple[type[Exception], ...] = UNREADABLE) -> Iterator[None]:
    """Within the context, turn errors into one line that names the checkpoint and says what to do.

    Args:
        name: a checkpoint folder or a hub name.
        errors: what is caught.

    Raises:
        CheckpointError: any of them came.
    """
    try:
        yield
    except errors as error:
        raise damaged(name, first_line(error)) from error


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
        CheckpointError: no checkpoint, or no config that transformers can read.
    """
    _check_folder(name)
    with naming(name, _NO_CONFIG):
        config = transformers.AutoConfig.from_pretrained(name)
    for field, fits, says in _FIELDS:
        value = getattr(config, field, None)
        if value is not None and not fits(value):
            raise damaged(name, f"config.json has {field}={value!r:.200}, which must be {says}")
    return config


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
        CheckpointError: there is none that transformers can read.
    """
    _check_folder(name)
    try:
        with naming(name, _NO_CONFIG):
            return transformers.AutoTokenizer.from_pretrained(name)
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library raises just that on a damaged tokenizer.json
            raise
        raise damaged(name, f"its tokenizer cannot be read, {first_line(error)}") from error


def model_class(name: str, auto_class: str | None) -> Any:
    """Find the class to load a checkpoint with, after a look at its files and at the model that its config describes.

    Args:
        name: a checkpoint folder or a hub name.
        auto_class: transformers' auto class; None takes the class that the checkpoint names.

    Raises:
        CheckpointError: files that cannot be read, or a config that describes no model.
        InvalidOption: transformers does not have the class that the checkpoint names.
    """
    config = read_config(name)
    named = auto_class or (config.architectures or ["none"])[0]
    found: Any = getattr(transformers, named, None)
    if found is None:
        raise InvalidOption(f"{name} names the model class {named!r}, which transformers does not have")
    if Path(name).is_dir():
        _check_weight_files(name, config)
    build = found.from_config if auto_class else found
    with naming(name, _NO_MODEL), torch.device("meta"):  # sizes only: no memory is taken
        build(config)
    return found


def _check_folder(name: str) -> None:
    folder = Path(name)
    if folder.is_file() or (folder.is_dir() and not (folder / "config.json").exists()):
        raise CheckpointError(f"{name} is not a checkpoint: a folder with config.json and *.safetensors is needed")
    if folder.is_dir() and not isinstance(read_json(folder / "config.json"), dict):
        raise damaged(name, "config.json must be an object")


def _check_weight_files(name: str, config: Any) -> None:
    """Refuse weights whose headers cannot be read, and a config with more blocks than there are weights."""
    folder = Path(name)
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX)
        parts = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise damaged(name, f"{INDEX} has no weight_map of file names")
    weights = 0
    for file in sorted(folder.glob("*.safetensors")):
        with naming(name), safe_open(file, framework="pt") as stored:
            weights += len(stored.keys())
    blocks = getattr(config, "num_hidden_layers", None)
    if weights and isinstance(blocks, int) and blocks > weights:
        raise damaged(name, f"config.json says {blocks} blocks, but there are {weights} weights in all")
