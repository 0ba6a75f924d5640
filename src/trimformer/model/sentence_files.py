"""The files of sentence-transformers beside a checkpoint: how it pools, its prompts, and what is copied along.

A checkpoint without such files says nothing of its pooling: then it is the mean over the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from trimformer.data.hub import hub_file, model_folder
from trimformer.errors import CheckpointError, UnsupportedModel, unknown_name
from trimformer.model.pooling import MODES, Dense, Normalize, Pooling
from trimformer.model.soundness import damaged, naming, read_json

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
ATTRIBUTE = "trimformer_pooling"
"""Attribute of a model that holds its `Pooling` once that is known; copies of the model have it too."""
IGNORED = ("Transformer", "Dropout")
"""Modules that change no embedding: what is pooled, and what only training knows."""


@dataclass(frozen=True)
class Prompts:
    """Texts that a sentence encoder wants before its own: for queries, for documents, for all others."""

    query: str = ""
    document: str = ""
    other: str = ""


def pooling_of(model: Any) -> Pooling:
    """Give the pooling of a model: what was chosen for it, else what the files say that it was loaded from.

    Args:
        model: anything with the `config` of a transformers model.

    Raises:
        UnsupportedModel: these files name modules or kinds of pooling other than those known here.
        CheckpointError: damaged files.
    """
    known = known_pooling(model)
    if known is None:
        known = read_pooling(str(getattr(model.config, "name_or_path", "") or "")) or Pooling(said_by="nothing")
        set_pooling(model, known)
    return known


def known_pooling(model: Any) -> Pooling | None:
    """Give the pooling of a model if it is known already; nothing is read."""
    known: Pooling | None = getattr(model, ATTRIBUTE, None)
    return known


def set_pooling(model: Any, pooling: Pooling) -> None:
    """Say how a model's hidden states are pooled, from now on; its files are not changed."""
    setattr(model, ATTRIBUTE, pooling)


def choose_pooling(model: Any, mode: str) -> None:
    """Say how a model's hidden states are pooled, whatever its files say.

    Raises:
        InvalidOption: there is no such mode.
    """
    if mode not in MODES:
        raise unknown_name("pooling", mode, MODES)
    set_pooling(model, Pooling((mode,)))


def read_pooling(name: str) -> Pooling | None:
    """Read the pooling of a checkpoint, a folder or hub name; None where it is no sentence-transformers checkpoint.

    Raises:
        UnsupportedModel: modules or kinds of pooling other than those of `Pooling`; names them.
        CheckpointError: damaged files.
    """
    file = checkpoint_file(name, MODULES)
    if file is None:
        return None
    modes: tuple[str, ...] = ()
    layers: list[Dense | Normalize] = []
    for module in _modules(file):
        kind, path = module["type"].rpartition(".")[2], module["path"]
        if kind == "Pooling":
            modes = _modes(name, path)
        elif kind == "Dense":
            layers.append(_dense(name, path))
        elif kind == "Normalize":
            layers.append(Normalize())
        elif kind not in IGNORED:
            raise UnsupportedModel(
                f"{name} has the module {kind}: only a Transformer with Pooling, Dense and Normalize is known; "
                f"say how it pools, such as `pooling=mean`"
            )
    if not modes:
        raise UnsupportedModel(f"{name} has no module Pooling: say how it pools, such as `pooling=mean`")
    return Pooling(modes, tuple(layers), said_by="files")


def write_added(folder: Path, pooling: Pooling) -> None:
    """Write the layers that were added to a pooling into a folder that has its other files, as modules `Dense`.

    Args:
        folder: with the `modules.json` that says how the pooling was before.
        pooling: with `added` layers; they come after the module that pools.
    """
    file = folder / MODULES
    modules = _modules(file)
    place, pools = next((place, each) for place, each in enumerate(modules) if each["type"].endswith(".Pooling"))
    kind = pools["type"].removesuffix("Pooling") + "Dense"
    for number, layer in enumerate(pooling.added, start=1):
        path = next(name for name in map("{}_Dense".format, count(len(modules))) if not (folder / name).exists())
        modules.insert(place + number, {"type": kind, "path": path, "name": path})
        _write_dense(folder / path, layer)
    numbered = [{**each, "idx": number} for number, each in enumerate(modules)]
    file.write_text(json.dumps(numbered, indent=2), encoding="utf-8")


def _write_dense(folder: Path, layer: Dense) -> None:
    folder.mkdir()
    outputs, inputs = layer.weight.shape
    kind = type(layer.activation)
    config: dict[str, Any] = {"in_features": inputs, "out_features": outputs, "bias": layer.bias is not None}
    config |= {"activation_function": f"{kind.__module__}.{kind.__name__}"}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    weights = {"linear.weight": layer.weight, "linear.bias": layer.bias}
    save_file(
        {name: values.contiguous() for name, values in weights.items() if values is not None},
        folder / "model.safetensors",
    )


def read_prompts(name: str) -> Prompts:
    """Read the prompts of a checkpoint, a folder or hub name; empty ones where it has none.

    Raises:
        CheckpointError: a damaged file.
    """
    file = checkpoint_file(name, PROMPTS)
    config = {} if file is None else read_json(file)
    prompts = (config.get("prompts") or {}) if isinstance(config, dict) else None
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise damaged(name, f"{PROMPTS} must have prompts as an object of texts")
    other = prompts.get(str(config.get("default_prompt_name")), "")
    documents = [prompts[kind] for kind in ("document", "passage", "corpus") if kind in prompts]
    return Prompts(query=str(prompts.get("query", other)), document=documents[0] if documents else other, other=other)


def checkpoint_file(name: str, path: str) -> Path | None:
    """Find a file of a checkpoint, a folder or hub name, by its path in there; None where it has none."""
    if not name or Path(name).is_dir():
        file = Path(name) / path
        return file if name and file.is_file() else None
    return hub_file(name, path)


def _needed(name: str, path: str) -> Path:
    file = checkpoint_file(name, path)
    if file is None:
        raise damaged(name, f"{path} cannot be read, it is not there")
    return file


def _modules(file: Path) -> list[dict[str, Any]]:
    modules = read_json(file)
    if not isinstance(modules, list) or not all(map(_is_module, modules)):
        raise damaged(file.parent, f"{file.name} must be a list of modules, each with a type and a path")
    return modules


def _is_module(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("type", "path"))


def _modes(name: str, path: str) -> tuple[str, ...]:
    """Read the kinds of pooling, from both forms of the file: one flag each, or one entry."""
    file = _needed(name, f"{path}/config.json")
    config = _object(file)
    named = config["pooling_mode"] if "pooling_mode" in config else _flagged(config)
    modes = [named] if isinstance(named, str) else named
    if not isinstance(modes, list) or not all(isinstance(mode, str) for mode in modes):
        raise damaged(file.parent, f"{file.name} must have names as pooling_mode, not {named!r}")
    unknown = sorted(set(modes) - MODES.keys())
    if unknown or not modes:
        raise UnsupportedModel(f"{name} pools by {' and '.join(unknown) or 'nothing'}: known are {', '.join(MODES)}")
    if config.get("include_prompt", True) is False and read_prompts(name) != Prompts():
        raise UnsupportedModel(
            f"{name} leaves its prompts out of the pooling (include_prompt), which is not known here: "
            "say how it pools, such as `pooling=mean`"
        )
    return tuple(modes)


def _flagged(config: Mapping[str, Any]) -> list[str]:
    flags = [key.removeprefix("pooling_mode_") for key, value in config.items() if value is True]
    names = {flag if flag in MODES else flag.removesuffix("_token").removesuffix("_tokens") for flag in flags}
    return [mode for mode in MODES if mode in names] + sorted(names - MODES.keys() - {"include_prompt"})


def _dense(name: str, path: str) -> Dense:
    config = _object(_needed(name, f"{path}/config.json"))
    if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise UnsupportedModel(f"{name} has a Dense module of another kind, {path}: say how it pools, `pooling=mean`")
    file = checkpoint_file(name, f"{path}/model.safetensors")
    if file is None:
        raise UnsupportedModel(
            f"{name} has no {path}/model.safetensors, and pickles are not read: "
            f"save it anew with sentence-transformers, SentenceTransformer({name!r}).save(…)"
        )
    with naming(name):
        weights = load_file(file)
    if "linear.weight" not in weights:
        raise damaged(name, f"{path}/model.safetensors has no linear.weight")
    return Dense(weights["linear.weight"], weights.get("linear.bias"), _activation(name, config))


def _activation(name: str, config: Mapping[str, Any]) -> nn.Module:
    named = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = getattr(nn, named.rpartition(".")[2], None)
    if not named.startswith("torch.nn.") or not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UnsupportedModel(f"{name} has the activation {named}: only those of torch.nn are known")
    return kind()


def _object(file: Path) -> dict[str, Any]:
    config = read_json(file)
    if not isinstance(config, dict):
        raise damaged(file.parent, f"{file.name} must be an object")
    return config


def with_prompt(texts: Sequence[str], prompt: str) -> list[str]:
    """Put a prompt before every text."""
    return [f"{prompt}{text}" for text in texts]


def sentence_transformers_files(name: str) -> dict[str, Path]:
    """Find the files beside the weights that make a folder a sentence-transformers model, by relative path; or none.

    Raises:
        CheckpointError: one of them is a link that leads out of the folder: it would be copied from there.
    """
    found = checkpoint_file(name, MODULES)
    if found is None:
        return {}
    folder = Path(name) if Path(name).is_dir() else Path(model_folder(name))
    names = (MODULES, "sentence_bert_config.json", PROMPTS)
    files = [folder / name for name in names] + [
        file for file in folder.glob("*_*/*") if file.suffix in (".json", ".safetensors")
    ]
    found_files = {str(file.relative_to(folder)): file for file in files if file.exists()}
    of_hub = folder.parent.name == "snapshots"  # its files are links into the same checkpoint's blobs
    inside = (folder.parents[1] if of_hub else folder).resolve()
    for file in found_files.values():
        if not file.resolve().is_relative_to(inside):
            raise CheckpointError(f"{file} is a link that leads out of {folder}: put the file itself there")
    return found_files
