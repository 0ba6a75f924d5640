"""Descriptions of attention with other units than its heads: query heads that share others, and dimensions of heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trimformer.model.description import Architecture, Attention, Fused, Sublayer
from trimformer.model.trimformer_modules import OwnConfig


def by_query_head(architecture: Architecture) -> Architecture:
    """Describe the variant whose query heads all share one key and value head: a unit is a query head."""
    found = _varied(architecture, lambda sublayer: replace(_of_queries(sublayer), multi_query=True))
    stock = {name: "head" if what == "query head" else what for name, what in found.stock.items()}
    return replace(found, stock=stock)


def by_slot(architecture: Architecture) -> Architecture:
    """Describe an architecture with slots as units: a query head of every key and value head, which all stay."""
    return _varied(architecture, lambda sublayer: replace(_of_queries(sublayer), slots=True))


def one_by_one(architecture: Architecture) -> Architecture:
    """Describe an architecture by slot with single query heads as units, to be looked at: they cannot be cut."""
    return _varied(architecture, lambda sublayer: replace(sublayer, multi_query=True))


def by_dimension(architecture: Architecture) -> Architecture:
    """Describe an architecture with dimensions of heads as units, wherever heads may be narrower than the config says.

    It has none where they may not.
    """
    return _varied(architecture, lambda sublayer: replace(sublayer, by_dimension=sublayer.head_size is not None))


def _varied(architecture: Architecture, varied: Callable[[Attention], Attention]) -> Architecture:
    def of(sublayer: Sublayer) -> Sublayer:
        return varied(sublayer) if isinstance(sublayer, Attention) and not sublayer.multi_query else sublayer

    chains = (replace(each, sublayers=tuple(map(of, each.sublayers))) for each in architecture.chains)
    stock = {name: what for name, what in architecture.stock.items() if what != "head"}
    return replace(architecture, chains=tuple(chains), stock=stock)


def _of_queries(sublayer: Attention) -> Attention:
    """Describe attention whose keys and values belong to all units; it repeats them as often as its core says."""
    first, *others = sublayer.producers
    if isinstance(first, Fused):
        queries: str | Fused = replace(first, parts=1, shared=first.parts - 1)
    else:
        queries = first
    kept = {name: what for name, what in sublayer.sizes.items() if what != "heads"}
    shared = tuple(each.path if isinstance(each, Fused) else each for each in others)
    return replace(sublayer, producers=(queries,), shared=shared, sizes=kept | {sublayer.sharing: "heads"})


def config_of_block(sublayer: Sublayer, config: Any, core: Any, features: int) -> Any:
    """Give the config as a single block has it, some of whose query heads, or their dimensions, may have been cut.

    Args:
        sublayer: the description of a sublayer of the block.
        config: of the sublayer's chain.
        core: the module of the sublayer's core; None where it has none.
        features: width of the consumer's input.
    """
    if not isinstance(sublayer, Attention) or sublayer.tied or (sublayer.multi_query and not sublayer.slots):
        return config
    head_size = getattr(core, sublayer.head_size, None) if sublayer.head_size else None
    if head_size and features:
        own = OwnConfig(config)
        vars(own).update(head_dim=head_size, num_attention_heads=features // head_size)
        return own
    shared_by = getattr(core, sublayer.sharing, None)
    if not (shared_by and features):
        return config
    own, width = OwnConfig(config), sublayer.head_width(config)
    sizes = {"head_dim": width, "num_attention_heads": features // width}
    vars(own).update(sizes | {sublayer.key_value_heads: features // width // shared_by})
    return own
