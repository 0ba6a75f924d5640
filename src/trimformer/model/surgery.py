"""Cut masked units out of the weights for good."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from trimformer.errors import InvalidOption
from trimformer.model.description import Attention
from trimformer.model.masking import check_masks, feature_mask, producer_mask
from trimformer.model.modeling_trimformer import TrimformerConfig, guard_cache, remove_marks, set_size, sizes_of
from trimformer.model.sites import Masks, Site
from trimformer.model.structure import Structure, features_first, read_structure
from trimformer.model.trimformer_modules import (
    HeadSelection,
    Projection,
    add_bias,
    empty_attention,
    head_selections,
    leave_out,
    note_sizes,
    select_heads,
    sizes_of_projection,
)


@torch.no_grad()
def cut(structure: Structure, masks: Masks) -> Structure:
    """Remove the units with mask False from a model's weights, in place; returns the model's new structure.

    The model computes what it computed with those units masked to zero. A sublayer without units adds only its bias.

    Raises:
        InvalidOption: masks that do not fit the sites.
    """
    check_masks(structure, masks)
    for site in structure:
        cut_site(structure, site, masks[site.name])
    return describe_cut(structure, masks)


@torch.no_grad()
def cut_site(structure: Structure, site: Site, mask: Tensor) -> None:
    """Remove units from the weights of one site: rows of its producers, columns of its consumer."""
    if bool(mask.all()):
        return
    sizes = _core_sizes(structure, site, mask)
    with structure.in_memory(site):
        _keep_scores(structure, site, sizes)
        for producer in site.producers:
            keep(structure.projection(producer.path), producer_mask(producer, mask), outputs=True)
        keep(structure.projection(site.consumer), feature_mask(site, mask), outputs=False)
        for path in (*(producer.path for producer in site.producers), site.consumer):
            leave_out(structure.base, path)
    if site.core is not None:
        _resize_attention(structure, site, site.core, mask, sizes)


def _keep_scores(structure: Structure, site: Site, sizes: Mapping[str, int]) -> None:
    """Make queries as much smaller as scores are divided by less, where that follows the width of a head."""
    sublayer = structure.sublayer(site)
    if site.head_width and isinstance(sublayer, Attention) and sublayer.divides and sizes:
        factor = (sizes[f"{site.core}.{sublayer.head_size}"] / site.head_width) ** 0.5
        queries = structure.projection(site.producers[0].path)
        features_first(queries)[:, : site.units].mul_(factor)
        if queries.bias is not None:
            queries.bias[: site.units].mul_(factor)


def keep(projection: Projection, mask: Tensor, *, outputs: bool) -> None:
    """Keep some outputs, or some inputs, of a projection, in place; its parameters stay the same objects."""
    select(projection, mask.nonzero()[:, 0], outputs=outputs)


def select(projection: Projection, numbers: Tensor, *, outputs: bool) -> None:
    """Give a projection some of its outputs, or of its inputs, by their numbers and in that order, in place."""
    index = numbers.to(projection.weight.device)
    outputs_first = not isinstance(projection, Conv1D)
    _replace(projection.weight, projection.weight.index_select(0 if outputs == outputs_first else 1, index))
    if outputs and projection.bias is not None:
        _replace(projection.bias, projection.bias[index])
    note_sizes(projection)


@torch.no_grad()
def write_consumer(structure: Structure, site: Site, weight: Tensor, bias: Tensor | None) -> None:
    """Give a consumer another weight, `(features, width)`, and bias, `(width,)`; it gets a bias where it has none.

    Args:
        structure: of the model to change.
        site: whose consumer it is.
        weight: as many features as the consumer has inputs.
        bias: None leaves the bias as it is.
    """
    structure.consumer_weight(site).copy_(weight)
    if bias is None:
        return
    if structure.consumer_bias(site) is None:
        add_bias(structure.consumer(site), structure.model.dtype, structure.device)
    structure.consumer(site).bias.copy_(bias)  # type: ignore[union-attr]  # it has one now


def describe_cut(structure: Structure, masks: Masks) -> Structure:
    """Write what was cut into the model's config, so that it is saved and loaded with these sizes.

    Args:
        structure: the model's structure before the cut, its weights already cut.
        masks: what was kept, in units of that structure.
    """
    before = pruning_config(structure)
    cut_structure = read_structure(structure.model)
    new = TrimformerConfig(biases=before.biases)
    for site, now in zip(structure, cut_structure, strict=True):
        if now.consumer_bias and not site.consumer_bias:
            new.biases.append(now.consumer)
        stays = _heads_that_stay(structure, site, masks[site.name])
        original = torch.tensor(before.kept.get(site.name, range(len(stays))), dtype=torch.long)
        units, query_heads = before.units.get(site.name, len(stays)), _query_heads(structure, site, masks[site.name])
        if now.units == units and not query_heads and not _narrowed(cut_structure, now):
            continue
        new.kept[site.name] = original[stays].tolist()
        new.units[site.name] = units
        new.linears |= _cut_sizes(cut_structure, now)
        if now.core and now.units == 0:
            new.empty[now.core] = _owned_by_core(cut_structure, now)
        elif now.core:
            new.query_heads |= {now.name: query_heads} if query_heads else {}
            inside = f"{now.core}."
            new.attributes |= {path: size for path, size in before.attributes.items() if path.startswith(inside)}
            new.attributes |= _core_sizes(structure, site, masks[site.name])
            new.attributes |= _core_sizes(cut_structure, now, torch.ones(now.units, dtype=torch.bool))
            new.by_head |= head_selections(structure.base, now.core)
            if now.attends and _cached_heads(cut_structure, now) != now.units:
                new.cached[now.name] = _cached_heads(cut_structure, now)
    _write_config(structure, new)
    return cut_structure


def _heads_that_stay(structure: Structure, site: Site, mask: Tensor) -> Tensor:
    """Give the mask of a site in units of a model's own description: of slots, key and value heads all stay or none.

    Of dimensions, heads stay of which any stays.
    """
    if site.head_width:
        return site.by_head(mask).any(1)
    return mask.any().repeat(site.groups) if structure.has_slots(site) else mask


def _query_heads(structure: Structure, site: Site, mask: Tensor) -> list[int]:
    """List the query heads that stay, by their numbers in the original; empty where no group has lost or moved any."""
    known, slots = pruning_config(structure).query_heads.get(site.name), structure.has_slots(site)
    if known is None and not (slots and not bool(mask.all())):
        return []
    numbers = torch.tensor(known or range(site.units * site.query_heads))
    by_head = numbers.reshape(site.groups, site.units).T if slots else numbers.reshape(site.units, site.query_heads)
    kept = by_head[mask]
    found: list[int] = (kept.T if slots else kept).flatten().tolist()
    return found


def _cut_sizes(structure: Structure, site: Site) -> dict[str, list[int]]:
    """Read in- and outputs of a site's projections by path."""
    paths = [*(producer.path for producer in site.producers), site.consumer]
    return {path: sizes_of_projection(structure.module(path)) for path in paths}


def describe_stock(structure: Structure, masks: Masks) -> Structure:
    """Write sizes that all layers share into the config of a cut model, as its own class reads them.

    Args:
        structure: the model's structure before the cut, its weights already cut, to as many units in every layer.
        masks: what was kept.
    """
    config, cut_structure = structure.model.config, read_structure(structure.model)
    stock = cut_structure.architecture.stock
    vars(config).pop("quantization_config", None)
    remove_marks(structure.model)
    if all(bool(mask.all()) for mask in masks.values()):
        return cut_structure
    head, neuron = (next(site for site in cut_structure if site.kind == kind) for kind in ("head", "neuron"))
    _set_stock(config, stock, head, head.units, neuron.units)
    return cut_structure


def class_accepts(structure: Structure, heads: int) -> bool:
    """Tell whether the class of a model can have as many units of attention in every layer, by its config's own rules.

    Llama's width must be a multiple of its number of heads, for example, though nothing is computed from that.
    """
    config = copy.deepcopy(structure.model.config)
    head, neuron = (next(site for site in structure if site.kind == kind) for kind in ("head", "neuron"))
    _set_stock(config, structure.architecture.stock, head, heads, neuron.units)
    try:
        getattr(config, "validate", bool)()
    except (ValueError, StrictDataclassError):
        return False
    return True


def _set_stock(config: Any, stock: Mapping[str, str], head: Site, heads: int, neurons: int) -> None:
    sizes = {"neuron": neurons, "head": heads, "query head": heads * head.query_heads}
    if {"head", "query head"} & set(stock.values()):  # or else it would follow from the number of heads
        config.head_dim = head.unit_width // head.query_heads
    for name, what in stock.items():
        setattr(config, name, sizes[what])


def pruning_config(structure: Structure) -> TrimformerConfig:
    """Read what the model's config says of earlier cuts; empty for a dense model."""
    return sizes_of(structure.model.config) or TrimformerConfig()


def _write_config(structure: Structure, new: TrimformerConfig) -> None:
    remove_marks(structure.model)
    if new.kept or new.biases or new.query_heads:
        structure.model.config.quantization_config = new
        guard_cache(structure.model)


def _resize_attention(structure: Structure, site: Site, core: str, mask: Tensor, sizes: Mapping[str, int]) -> None:
    if not bool(mask.any()):
        empty_attention(structure.base, core, _owned_by_core(structure, site))
        return
    for path, value in sizes.items():
        set_size(structure.base, path, value)
    arguments = structure.sublayer(site).by_head
    if arguments:
        of_queries = mask.repeat_interleave(site.query_heads // site.groups).repeat(site.groups)
        kept = site.by_head(mask).any(1) if site.head_width else of_queries
        select_heads(structure.module(core), HeadSelection(kept.nonzero()[:, 0].tolist(), len(kept), dict(arguments)))


def _core_sizes(structure: Structure, site: Site, mask: Tensor) -> dict[str, int]:
    """Compute the sizes that a core caches, by path, for the units that stay; empty where none does, or no core is.

    Raises:
        InvalidOption: of heads that stay, not as many dimensions are to stay.
    """
    units, sublayer = int(mask.sum()), structure.sublayer(site)
    if not units or site.core is None:
        return {}
    heads, head_size = units, {}
    if site.head_width and isinstance(sublayer, Attention):
        widths = site.by_head(mask).sum(1)
        heads = int((widths > 0).sum())
        if heads * int(widths.max()) != units:
            raise InvalidOption(f"heads of {site.name} must keep as many dimensions each, or none: {widths.tolist()}")
        head_size = {f"{site.core}.{sublayer.head_size}": units // heads}
    sizes = {"heads": heads, "query heads": heads * site.query_heads, "features": units * site.unit_width}
    return {f"{site.core}.{name}": sizes[what] for name, what in sublayer.sizes.items()} | head_size


def _narrowed(structure: Structure, site: Site) -> bool:
    """Tell whether the heads of a site are of another width than the config's."""
    sublayer = structure.sublayer(site)
    if not isinstance(sublayer, Attention) or sublayer.head_size is None or not site.units:
        return False
    width = getattr(structure.module(site.core or ""), sublayer.head_size)
    return bool(width != sublayer.head_width(structure.config(site.chain)))


def _cached_heads(structure: Structure, site: Site) -> int:
    sublayer = structure.sublayer(site)
    if not isinstance(sublayer, Attention):
        return site.units
    heads = {"heads": site.units, "query heads": site.units * site.query_heads}[sublayer.cached]
    return 1 if sublayer.multi_query else heads


def _owned_by_core(structure: Structure, site: Site) -> list[str]:
    """Name the consumer inside the attention module, and the norm of the sum if that is there; none where outside."""
    inside, norm = f"{site.core}.", structure.sublayer(site).core_norm
    if not site.consumer.startswith(inside):
        return []
    return [site.consumer.removeprefix(inside), *([norm] if norm else [])]


def _replace(parameter: Tensor, values: Tensor) -> None:
    """Give a parameter values of another size; it stays the same object, whose `requires_grad` can be restored."""
    parameter.data = values.contiguous()
    parameter.grad = None
