"""What pruning sees of a model, as data: sublayers with units, and where a model family has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Kind = Literal["head", "neuron"]


@dataclass(frozen=True)
class Producer:
    """A projection whose outputs, seen as `(parts, units, width)`, belong to units: unit `u` has `[:, u, :]`."""

    path: str
    width: int
    parts: int = 1
    bias: bool = True


@dataclass(frozen=True)
class Site:
    """One sublayer as pruning sees it: producers -> units -> one consumer (the output projection).

    Paths are dotted and relative to the base model, so that they hold for every task head.
    """

    name: str
    kind: Kind
    block: int
    units: int
    unit_width: int
    producers: tuple[Producer, ...]
    consumer: str
    consumer_bias: bool = True
    core: str | None = None
    """The module that is replaced when no unit is left (attention only)."""
    query_heads: int = 1
    """Query heads of one unit: those that share a key and value head (attention only)."""

    @property
    def features(self) -> int:
        """Width of the consumer's input: `units * unit_width`."""
        return self.units * self.unit_width

    @property
    def produced(self) -> int:
        """Outputs of all producers together that belong to one unit."""
        return sum(producer.parts * producer.width for producer in self.producers)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Where the sublayers of a model family are: dotted paths below one block.

    Covers blocks whose sublayers add the consumer's output, as it is, to the residual stream.
    """

    description: str
    blocks: str
    attention: str
    query_key_value: tuple[str, ...]
    """Three projections, or one that is all three."""
    fused: Literal["thirds", "by head"] | None = None
    """How one is all three: queries of all heads, then keys, then values; or the three of each head in turn."""
    attention_output: str
    feed_forward: tuple[str, ...]
    """One projection, or a gate and what it multiplies."""
    feed_forward_output: str
    head_counts: Mapping[str, str] = field(default_factory=dict)
    """Attributes of the attention module that cache a size, each with what it counts: `heads` or `features`."""
    causal: bool = False
    """A decoder: a token sees itself and those before it."""
    pre_norm: bool | str = False
    """Whether norms come before the sublayers, not after the sums; or the config's flag that says so."""
    stock: Mapping[str, str] = field(default_factory=dict)
    """Config attributes that give every block a size, by what they count: `neuron`, `head`, `query head`."""


Scores = dict[str, Tensor]
"""Importance per unit, by site name; higher = keep."""


Masks = dict[str, Tensor]
"""Bool per unit, by site name; True = keep."""


def place(site: str) -> tuple[int, str]:
    """Block and sublayer in a site's name.

    >>> place("encoder.layer.3.attention")
    (3, 'attention')
    """
    _, block, sublayer = site.rsplit(".", 2)
    return int(block), sublayer
