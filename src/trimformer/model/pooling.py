"""How a sentence encoder makes one embedding of its hidden states, as the files of sentence-transformers say.

A checkpoint without such files says nothing of it: then it is the mean over the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from trimformer.data.hub import hub_file
from trimformer.errors import UnsupportedModel, unknown_name
from trimformer.model.soundness import damaged, naming, read_json

LEAST = 1e-9
MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
ATTRIBUTE = "trimformer_pooling"
"""Attribute of a model that holds its `Pooling` once that is known; copies of the model have it too."""
IGNORED = ("Transformer", "Dropout")
"""Modules that change no embedding: what is pooled, and what only training knows."""


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=LEAST)


def _mean_by_root(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=LEAST).sqrt()


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _mean(hidden, mask.cumsum(1) * mask)


def _largest(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask[..., None] == 0, torch.finfo(hidden.dtype).min).amax(1)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return _token(hidden, mask.long().argmax(1))


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return _token(hidden, mask.long().cumsum(1).argmax(1))


def _token(hidden: Tensor, places: Tensor) -> Tensor:
    return hidden.gather(1, places[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]


MODES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
"""Kinds of pooling by their names in sentence-transformers: hidden states, `(batch, tokens, width)`, and the mask of
real tokens, `(batch, tokens)`, to `(batch, width)`. First and last token are real ones, whatever side is padded."""


@dataclass(frozen=True, eq=False)
class Dense:
    """A linear layer on embeddings, with its activation."""

    weight: Tensor
    """`(out_features, in_features)`."""
    bias: Tensor | None
    activation: nn.Module

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Map embeddings, `(batch, in_features)` -> `(batch, out_features)`."""
        bias = None if self.bias is None else self.bias.to(embeddings)
        mapped: Tensor = self.activation(F.linear(embeddings, self.weight.to(embeddings), bias))
        return mapped


@dataclass(frozen=True)
class Normalize:
    """Scaling of embeddings to length one."""

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Scale embeddings, `(batch, width)`."""
        return F.normalize(embeddings, dim=-1)


@dataclass(frozen=True)
class Pooling:
    """Pooling of hidden states to an embedding: by one mode or several beside each other, then by layers."""

    modes: tuple[str, ...] = ("mean",)
    layers: tuple[Dense | Normalize, ...] = ()
    is_default: bool = field(default=False, compare=False)
    """Whether nothing says so, and the mean was assumed."""

    def __call__(self, hidden: Tensor, token_mask: Tensor) -> Tensor:
        """Pool hidden states, `(batch, tokens, width)`, over the real tokens, `(batch, tokens)`: `(batch, width)`."""
        hidden, mask = hidden.float(), token_mask.to(torch.float32)
        embeddings = torch.cat([MODES[mode](hidden, mask) for mode in self.modes], dim=-1)
        for layer in self.layers:
            embeddings = layer(embeddings)
        return embeddings

    def described(self) -> list[str]:
        """Describe it as plain words, one a step, such as `["cls", "Normalize"]`; weights by their sum."""
        return [
            *self.modes,
            *(
                f"{type(layer).__name__} {layer.weight.double().sum():.12g}"
                if isinstance(layer, Dense)
                else type(layer).__name__
                for layer in self.layers
            ),
        ]


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
    known: Pooling | None = getattr(model, ATTRIBUTE, None)
    if known is None:
        known = read_pooling(str(getattr(model.config, "name_or_path", "") or "")) or Pooling(is_default=True)
        setattr(model, ATTRIBUTE, known)
    return known


def choose_pooling(model: Any, mode: str) -> None:
    """Say how a model's hidden states are pooled, whatever its files say.

    Raises:
        InvalidOption: there is no such mode.
    """
    if mode not in MODES:
        raise unknown_name("pooling", mode, MODES)
    setattr(model, ATTRIBUTE, Pooling((mode,)))


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
    return Pooling(modes, tuple(layers))


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


def _modules(file: Path) -> list[dict[str, str]]:
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
