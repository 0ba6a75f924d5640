"""A model as pruning sees it, as data: sublayers with units."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Scores = dict[str, Tensor]
"""Importance per unit, by site name; higher = keep."""
Masks = dict[str, Tensor]
"""Bool per unit, by site name; True = keep."""


@dataclass(frozen=True)
class Producer:
    """A projection whose outputs are parts, one after the other; each part holds the units in order.

    Of a part of width `w`, unit `u` has the outputs `u * w` to `(u + 1) * w`, counted from where the part begins.
    """

    path: str
    widths: tuple[int, ...]
    """Outputs of one unit in each part."""
    bias: bool = True
    inputs: int = 0
    """Numbers that it reads of a token."""
    shared: int = 0
    """Outputs behind all parts that every unit uses, such as the one key and value head of multi-query attention."""
    aligned: bool = True
    """False if it reads something else as well, so that no map of the sublayer's input can be folded into it."""
    of_tokens: bool = True
    """False if it reads no tokens at all, but something that all sequences share, such as embeddings of positions."""

    @property
    def width(self) -> int:
        """Outputs that belong to one unit."""
        return sum(self.widths)


@dataclass(frozen=True)
class Stream:
    """Where a residual stream can be seen: it is the argument of that number of a module's forward pass."""

    path: str
    argument: int = 0


@dataclass(frozen=True)
class Site:
    """One sublayer as pruning sees it: producers -> units -> one consumer (the output projection).

    Paths are dotted and relative to the base model, so that they hold for every task head.
    """

    name: str
    kind: str
    """Kind of its units: `head`, `neuron`, or the name that another architecture gives them."""
    chain: int
    block: int
    """Number of its block in the chain, from 0."""
    order: int
    """Its place among the sublayers of the block, from 0."""
    last_in_block: bool
    units: int
    unit_width: int
    width: int
    """Width of the residual stream that it adds to."""
    producers: tuple[Producer, ...]
    consumer: str
    consumer_bias: bool = True
    core: str | None = None
    """The module that is replaced when no unit is left, if the sublayer cannot run without any."""
    query_heads: int = 0
    """Query heads of one unit: those that share a key and value head; 0 where the sublayer does not attend."""
    head_width: int = 0
    """Units of a head, where a unit is one of its dimensions; 0 where units are whole heads, or no heads at all."""
    norm: str | None = None
    """The module between consumer and residual stream, if there is one."""
    multiplier: float = 1.0
    """Factor of the output before it is added to the residual stream."""
    shared: tuple[str, ...] = ()
    """Projections that read the sublayer's input and belong to all units."""
    residual: Stream | None = None
    """Where the residual stream that it adds to is seen; None where it follows from the block's input."""
    window: int | None = None
    """Tokens that a token attends to at most; None for all."""
    positions: int = 0
    """Embeddings of positions that every token is scored against, beside the other tokens."""
    passes: int = 1
    """How often the model runs the sublayer on a batch."""
    groups: int = 1
    """Pieces of the consumer's input, one after the other, in each of which all units have equal parts, in order."""

    @property
    def features(self) -> int:
        """Width of the consumer's input: `units * unit_width`."""
        return self.units * self.unit_width

    @property
    def attends(self) -> bool:
        """True for heads, which mix tokens; False for neurons and other units that see one token each."""
        return self.query_heads > 0

    @property
    def heads(self) -> int:
        """Heads that the units make up; 0 where the sublayer does not attend."""
        return self.units // (self.head_width or 1) * self.groups if self.attends else 0

    def by_head(self, values: Tensor) -> Tensor:
        """Arrange numbers of dimensions by head: `(units,)` -> `(heads, head_width)`."""
        return values.reshape(-1, self.head_width)

    def part(self, number: int) -> tuple[str, int]:
        """Give the producer of a part, such as the keys, and where among its outputs the part begins."""
        places = [(each, before) for each in self.producers for before in range(len(each.widths))]
        producer, before = places[number]
        return producer.path, sum(producer.widths[:before]) * self.units

    @property
    def unit_weights(self) -> int:
        """Weights that belong to one unit, biases left out: outputs of the producers, and inputs of the consumer."""
        return sum(each.inputs * each.width for each in self.producers) + self.width * self.unit_width

    def by_unit(self, values: Tensor, axis: int = -1) -> Tensor:
        """Arrange an axis of features so that those of one unit stand together, unit by unit."""
        if self.groups == 1 or not values.shape[axis]:
            return values
        place = axis % values.dim()
        pieces = values.unflatten(place, (self.groups, -1, self.unit_width // self.groups))
        arranged: Tensor = pieces.transpose(place, place + 1).flatten(place, place + 2)
        return arranged


def unit_of(sublayer: str) -> str:
    """Tell by a sublayer's name what its units are: of attention `head`, of feed-forward layers `neuron`.

    >>> unit_of("attention"), unit_of("ffn_0")
    ('head', 'neuron')
    """
    return {"attention": "head", "ffn": "neuron"}.get(sublayer.partition("_")[0], sublayer)


def place(site: str) -> tuple[int, str]:
    """Read the block's number and the sublayer's name from a site's name.

    >>> place("encoder.layer.3.attention")
    (3, 'attention')
    """
    _, block, sublayer = site.rsplit(".", 2)
    return int(block), sublayer
