"""What makes a sentence embedding of hidden states, as the files of a sentence-transformers checkpoint say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from trimformer.errors import CheckpointError, UnsupportedModel

MODES = ("mean", "cls")
LEAST = 1e-9


@dataclass(frozen=True)
class Pooling:
    """Mean of the tokens, or the first token; scaled to length one where `normalize` is set."""

    mode: str = "mean"
    normalize: bool = True

    def __call__(self, hidden: Tensor, token_mask: Tensor) -> Tensor:
        """`(batch, tokens, width)` and `(batch, tokens)` -> `(batch, width)`."""
        mask = token_mask[..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=LEAST)
        pooled = mean if self.mode == "mean" else hidden[:, 0]
        return F.normalize(pooled, dim=-1) if self.normalize else pooled


def read_pooling(name: str) -> Pooling | None:
    """The pooling of a checkpoint folder; None where it is no sentence-transformers checkpoint.

    Raises:
        UnsupportedModel: modules or kinds of pooling other than those of `Pooling`; names them.
        CheckpointError: damaged files.
    """
    folder = Path(name)
    if not (folder / "modules.json").is_file():
        return None
    try:
        modules = {_kind(module): module for module in _read(folder / "modules.json")}
        others = set(modules) - {"Transformer", "Pooling", "Normalize"}
        if others or "Pooling" not in modules:
            what = f"the module {min(others)}" if others else "no module Pooling"
            raise UnsupportedModel(f"{name} has {what}: only a Transformer, its Pooling and Normalize can be exported")
        modes = _modes(_read(folder / modules["Pooling"]["path"] / "config.json"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{name} has a damaged modules.json or Pooling config: {error}") from error
    if len(modes) != 1 or modes[0] not in MODES:
        raise UnsupportedModel(f"{name} pools by {' and '.join(modes) or 'nothing'}: can be exported are mean and cls")
    return Pooling(modes[0], "Normalize" in modules)


def _kind(module: dict[str, Any]) -> str:
    return str(module["type"]).rpartition(".")[2]


def _modes(config: dict[str, Any]) -> list[str]:
    """Names of the kinds of pooling, of both forms: one flag each, or one entry."""
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        return [named] if isinstance(named, str) else list(named)
    prefix = "pooling_mode_"
    flags = [key.removeprefix(prefix) for key, value in config.items() if key.startswith(prefix) and value is True]
    return [
        flag.removesuffix("_token").removesuffix("_tokens") if flag != "mean_sqrt_len_tokens" else flag
        for flag in flags
    ]


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
