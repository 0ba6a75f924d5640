"""Pooling of hidden states to a sentence embedding, as the files of a sentence-transformers checkpoint say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from trimformer.errors import UnsupportedModel
from trimformer.model.soundness import damaged, read_json

MODES = ("mean", "cls")
LEAST = 1e-9


@dataclass(frozen=True)
class Pooling:
    """Pooling by the mean of the tokens, or by the first token; scaled to length one where `normalize` is set."""

    mode: str = "mean"
    normalize: bool = True

    def __call__(self, hidden: Tensor, token_mask: Tensor) -> Tensor:
        """Pool hidden states, `(batch, tokens, width)`, over the real tokens, `(batch, tokens)`: `(batch, width)`."""
        mask = token_mask[..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=LEAST)
        pooled = mean if self.mode == "mean" else hidden[:, 0]
        return F.normalize(pooled, dim=-1) if self.normalize else pooled


def read_pooling(name: str) -> Pooling | None:
    """Read the pooling of a checkpoint folder; None where it is no sentence-transformers checkpoint.

    Raises:
        UnsupportedModel: modules or kinds of pooling other than those of `Pooling`; names them.
        CheckpointError: damaged files.
    """
    folder = Path(name)
    if not (folder / "modules.json").is_file():
        return None
    modules = {module["type"].rpartition(".")[2]: module["path"] for module in _modules(folder / "modules.json")}
    others = set(modules) - {"Transformer", "Pooling", "Normalize"}
    if others or "Pooling" not in modules:
        what = f"the module {min(others)}" if others else "no module Pooling"
        raise UnsupportedModel(f"{name} has {what}: only a Transformer, its Pooling and Normalize can be exported")
    modes = _modes(folder / modules["Pooling"] / "config.json")
    if len(modes) != 1 or modes[0] not in MODES:
        raise UnsupportedModel(f"{name} pools by {' and '.join(modes) or 'nothing'}: can be exported are mean and cls")
    return Pooling(modes[0], "Normalize" in modules)


def _modules(file: Path) -> list[dict[str, str]]:
    modules = read_json(file)
    if not isinstance(modules, list) or not all(map(_is_module, modules)):
        raise damaged(file.parent, f"{file.name} must be a list of modules, each with a type and a path")
    return modules


def _is_module(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("type", "path"))


def _modes(file: Path) -> list[str]:
    """Read the names of the kinds of pooling, from both forms of the file: one flag each, or one entry."""
    config = read_json(file)
    if not isinstance(config, dict):
        raise damaged(file.parent, f"{file.name} must be an object")
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        modes = [named] if isinstance(named, str) else named
        if not isinstance(modes, list) or not all(isinstance(mode, str) for mode in modes):
            raise damaged(file.parent, f"{file.name} must have names as pooling_mode, not {named!r}")
        return modes
    prefix = "pooling_mode_"
    flags = [key.removeprefix(prefix) for key, value in config.items() if key.startswith(prefix) and value is True]
    return [
        flag.removesuffix("_token").removesuffix("_tokens") if flag != "mean_sqrt_len_tokens" else flag
        for flag in flags
    ]
