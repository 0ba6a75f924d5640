"""Descriptions of model families, as data: where their sublayers are, and how wide a unit of each is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from trimformer.data.rows import TOKEN_MASK
from trimformer.model.sites import Producer, Stream


@dataclass(frozen=True)
class Fused:
    """One projection that does the work of several."""

    path: str
    parts: int
    by_unit: bool = False
    """True if the parts of each unit stand together, as in GPT-NeoX; else the units of each part, as in GPT-2."""
    shared: int = 0
    """Parts behind these that belong to all units."""


@dataclass(frozen=True)
class Layout:
    """Widths of one unit of a sublayer: in the consumer's input, and in the producers' outputs."""

    unit_width: int
    """Numbers of one unit in the consumer's input."""
    parts: tuple[int, ...]
    """Numbers of one unit in each part of the producers, in their order."""
    query_heads: int = 0
    shared: tuple[int, ...] = ()
    """Numbers in each part that belongs to all units, in the producers' order."""
    positions: int = 0
    """Embeddings of positions that every token is scored against, beside the other tokens."""
    groups: int = 1
    """Pieces of the consumer's input and of each part, with an equal share of every unit; `parts` has that share."""
    head_width: int = 0
    """Units of a head, where a unit is one of its dimensions."""


@dataclass(frozen=True, kw_only=True)
class Sublayer(ABC):
    """Description of a sublayer that every block of a chain has once: projections that fill units, one that reads them.

    Paths are dotted, below the block. A sublayer of another kind is a class of its own, with its `layout`.
    """

    name: str
    kind: str
    producers: tuple[str | Fused, ...]
    consumer: str
    core: str | None = None
    """The module that holds the units, to be replaced where none is left; None: the projections run without any."""
    sizes: Mapping[str, str] = field(default_factory=dict)
    """Attributes of the core that cache a size, each with what it counts: `heads`, `query heads` or `features`.

    An attribute that begins with `config.` is read from the config while the core runs: the core gets its own.
    """
    shared: tuple[str, ...] = ()
    """Projections that read the sublayer's input and belong to all units."""
    unaligned: tuple[str, ...] = ()
    """Producers that read something else as well, such as embeddings of positions."""
    of_positions: tuple[str, ...] = ()
    """Producers that read embeddings of positions alone."""
    by_head: Mapping[str, int] = field(default_factory=dict)
    """Arguments of the core with an entry for every head, such as a position bias, each with its axis of heads."""
    when: tuple[str, str] | None = None
    """A list in the config with an entry for each block, and the entry of the blocks that have this sublayer."""
    residual: Stream | None = None
    """Where the residual stream that it adds to is seen, if that is not what the chain's `pre_norm` says."""
    norm: str | None = None
    """A module between consumer and residual stream, such as Gemma 2's second norm."""
    core_norm: str | None = None
    """Name of the norm, inside the core, of the sum with the core's input, where the core adds to that itself."""
    multiplier: str | None = None
    """The config attribute that the output is multiplied by before it is added, such as Granite's."""

    @abstractmethod
    def layout(self, config: Any) -> Layout:
        """Read the widths of a unit from the config of the sublayer's chain."""

    def window(self, config: Any, block: int) -> int | None:
        """Read how many tokens a token attends to at most; None for all, or where nothing attends."""
        return None

    def is_in(self, config: Any, block: int) -> bool:
        """Tell whether a block of the chain has this sublayer."""
        return self.when is None or getattr(config, self.when[0])[block] == self.when[1]

    def paths(self) -> list[str]:
        """List the paths of the producers."""
        return [each.path if isinstance(each, Fused) else each for each in self.producers]

    def described(self, layout: Layout) -> Iterator[Producer]:
        """Yield the producers, their paths below the block, with the widths of a layout's parts, in order."""
        parts, shared = iter(layout.parts), iter(layout.shared)
        for each in self.producers:
            fused = each if isinstance(each, Fused) else Fused(each, parts=1)
            widths = tuple(width for part in islice(parts, fused.parts) for width in (part,) * layout.groups)
            yield Producer(
                fused.path,
                (sum(widths),) if fused.by_unit else widths,
                shared=sum(islice(shared, fused.shared)),
                aligned=fused.path not in (*self.unaligned, *self.of_positions),
                of_tokens=fused.path not in self.of_positions,
            )

    @property
    def parts(self) -> int:
        """Number of parts that the producers have together."""
        return sum(each.parts if isinstance(each, Fused) else 1 for each in self.producers)


@dataclass(frozen=True, kw_only=True)
class Attention(Sublayer):
    """Attention: a unit is a key and value head with the query heads that share it. Parts: queries, keys, values.

    Further parts, such as projections of positions, are as wide as the queries.
    In multi-query attention, where all query heads share one key and value head, a unit is a query head; part: queries.
    Where `by_dimension` is set, a unit is one dimension of one head, of query, key and value alike.
    """

    name: str = "attention"
    kind: str = "head"
    multi_query: bool = False
    slots: bool = False
    """True for units that are a query head of every key and value head, which all stay. Part: queries.

    With `multi_query`, a unit is a single query head all the same, to be looked at: it cannot be cut by itself.
    """
    by_dimension: bool = False
    """True for units that are single dimensions of heads; what stays is as many of every head that stays."""
    head_size: str | None = None
    """Attribute of the core with the width of a head, if heads may be narrower than the config says; None: not."""
    divides: bool = False
    """True if scores are divided by the root of `head_size` as it is; False: as it was when the core was made."""
    sharing: str = "num_key_value_groups"
    """Attribute of the core, if it has that, with the number of query heads that share each key and value head."""
    width: str = "hidden_size"
    """Config attribute with the width of all heads together; one with `head_dim`, that of a head, goes before."""
    tied: bool = False
    """True if a norm goes over the queries, or keys, of all heads, so that no head can do without another: one unit."""
    key_value_heads: str = "num_key_value_heads"
    """Config attribute with the number of key and value heads; none: as many as query heads."""
    cached: str = "heads"
    """What the layer's part of a cache counts, in the words of `sizes`; of multi-query attention it is one head."""
    positions: int = 0
    """Embeddings of positions that every token is scored against, beside the other tokens."""
    windows: str = "sliding_window"
    """Config attribute with the number of tokens that a token attends to, or a list of them by block."""
    windowed: tuple[str, tuple[str, ...]] = ("layer_types", ("sliding_attention", "chunked_attention"))
    """A list in the config with an entry for each block, and the entries of those with a window; no list: all."""

    def layout(self, config: Any) -> Layout:
        """Read the width of a head and the sharing of key and value heads from the config."""
        heads, width = config.num_attention_heads, self.head_width(config)
        if self.by_dimension:
            return Layout(1, (1,) * self.parts, query_heads=1, head_width=width)
        shared_by = heads // (getattr(config, self.key_value_heads, None) or heads)
        if self.multi_query or self.slots:
            every, own = heads // shared_by if self.slots else 1, 1 if self.multi_query else heads // shared_by
            return Layout(own * width, (width,), query_heads=own, shared=(every * width,) * 2, groups=own)
        groups = heads // shared_by if self.tied else 1
        queries, values = groups * shared_by * width, groups * width
        parts = (queries, values, values, *(queries,) * (self.parts - 3))
        return Layout(queries, parts, query_heads=groups * shared_by, positions=self.positions)

    def head_width(self, config: Any) -> int:
        """Read the width of a head."""
        return int(getattr(config, "head_dim", None) or getattr(config, self.width) // config.num_attention_heads)

    def window(self, config: Any, block: int) -> int | None:
        """Read the window from the config's attribute, if the block is one of those that have it."""
        name, kinds = self.windowed
        of_blocks = getattr(config, name, None)
        size = getattr(config, self.windows, None)
        if size is None or (of_blocks and of_blocks[block] not in kinds):
            return None
        return int(size[block] if isinstance(size, list) else size)


@dataclass(frozen=True, kw_only=True)
class FeedForward(Sublayer):
    """Feed-forward layer: a unit is a neuron, with its gate where there is one. Parts: one number a unit each."""

    name: str = "ffn"
    kind: str = "neuron"

    def layout(self, config: Any) -> Layout:
        """Give every part one number a neuron."""
        return Layout(1, (1,) * self.parts)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Blocks one after the other, all with the same sublayers in the order in which they are added.

    Sublayers that are computed side by side, on the same input, are listed one after the other too.
    """

    blocks: str
    """Path of the list of blocks."""
    sublayers: tuple[Sublayer, ...]
    causal: bool = False
    """True for a decoder: a token sees itself and those before it."""
    pre_norm: bool | str = False
    """True if norms come before the sublayers, False if after the sums; or the config's flag that says so."""
    passes: str | None = None
    """The config's number of times that the blocks run one after the other, such as ALBERT's; None: once."""
    config: str | None = None
    """Part of the model's config that has the chain's sizes, such as `text_config`; None: the config itself."""
    token_mask: str | None = TOKEN_MASK
    """The model input that marks the chain's real tokens; None: all tokens are real."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Description of a model family, which says where its sublayers are.

    Most models are one chain of blocks; towers, or encoder and decoder, are several, in the order in which they run.
    Where the layout depends on the config, a family provides a function from the config to its description.
    """

    description: str
    chains: tuple[Chain, ...]
    stock: Mapping[str, str] = field(default_factory=dict)
    """Config attributes that give every block a size, by what they count: `neuron`, `head`, `query head`."""
    positions_after_padding: bool = False
    """True if a row's first token has the position after the padding id's."""

    @property
    def causal(self) -> bool:
        """True if any chain is a decoder."""
        return any(chain.causal for chain in self.chains)
