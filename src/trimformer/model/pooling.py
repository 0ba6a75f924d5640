"""How a sentence encoder makes one embedding of its hidden states: pooling, and the layers that follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST = 1e-9


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
    said_by: Literal["files", "user", "nothing"] = field(default="user", compare=False)
    """What says so; where nothing does, the mean was assumed."""
    added: tuple[Dense, ...] = ()
    """Layers before these that no file has yet, see `sentence_files.write_added`."""

    def __call__(self, hidden: Tensor, token_mask: Tensor) -> Tensor:
        """Pool hidden states, `(batch, tokens, width)`, over the real tokens, `(batch, tokens)`: `(batch, width)`."""
        return self.layered(self.unlayered(hidden, token_mask))

    def unlayered(self, hidden: Tensor, token_mask: Tensor) -> Tensor:
        """Pool hidden states as the call does, without the layers that follow."""
        hidden, mask = hidden.float(), token_mask.to(torch.float32)
        return torch.cat([MODES[mode](hidden, mask) for mode in self.modes], dim=-1)

    def layered(self, embeddings: Tensor) -> Tensor:
        """Send what is pooled through the layers."""
        for layer in (*self.added, *self.layers):
            embeddings = layer(embeddings)
        return embeddings

    def mapped(self, weight: Tensor, bias: Tensor) -> Pooling:
        """Give a pooling that maps what is pooled by a matrix, `(width, width)`, before any other layer."""
        return replace(self, added=(Dense(weight.cpu(), bias.cpu(), nn.Identity()), *self.added))

    def described(self) -> list[str]:
        """Describe it as plain words, one a step, such as `["cls", "Normalize"]`; weights by their sum."""
        return [
            *self.modes,
            *(
                f"{type(layer).__name__} {layer.weight.double().sum():.12g}"
                if isinstance(layer, Dense)
                else type(layer).__name__
                for layer in (*self.added, *self.layers)
            ),
        ]
