"""Cut masked units out of the weights for good."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trimformer.interfaces import Masks, Site
from trimformer.masking import check_masks, feature_mask
from trimformer.modeling_trimformer import NoHeads, TrimformerConfig, carry_this_file, empty_attention
from trimformer.structure import Structure, read_structure


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
    kept = feature_mask(site, mask).nonzero()[:, 0]
    if not isinstance(site.core and structure.base.get_submodule(site.core), NoHeads):
        for path in site.producers:
            keep_rows(structure.linear(path), kept)
    keep_columns(structure.consumer(site), kept)
    if site.core is not None:
        _resize_attention(structure, site, site.core, int(mask.sum()))


def keep_rows(linear: nn.Linear, kept: Tensor) -> None:
    """Keep some outputs of a projection."""
    index = kept.to(linear.weight.device)
    _replace(linear.weight, linear.weight[index])
    linear.out_features = len(kept)
    if linear.bias is not None:
        _replace(linear.bias, linear.bias[index])


def keep_columns(linear: nn.Linear, kept: Tensor) -> None:
    """Keep some inputs of a projection."""
    _replace(linear.weight, linear.weight[:, kept.to(linear.weight.device)])
    linear.in_features = len(kept)


def describe_cut(structure: Structure, masks: Masks) -> Structure:
    """Write what was cut into the model's config, so that it is saved and loaded with these sizes.

    Args:
        structure: the model's structure before the cut, its weights already cut.
        masks: what was kept, in units of that structure.
    """
    before = pruning_config(structure)
    new = TrimformerConfig()
    cut_structure = read_structure(structure.model)
    for site, now in zip(structure, cut_structure, strict=True):
        original = torch.tensor(before.kept.get(site.name, range(site.units)), dtype=torch.long)
        units = before.units.get(site.name, site.units)
        if now.units == units:
            continue
        new.kept[site.name] = original[masks[site.name]].tolist()
        new.units[site.name] = units
        paths = [now.consumer] if now.core and now.units == 0 else [*now.producers, now.consumer]
        for path in paths:
            linear = structure.linear(path)
            new.linears[path] = [linear.in_features, linear.out_features]
        if now.core and now.units == 0:
            new.empty[now.core] = _owned_output(now)
        elif now.core:
            new.attributes |= _head_counts(structure, now)
    _write_config(structure, new)
    return cut_structure


def pruning_config(structure: Structure) -> TrimformerConfig:
    """What the model's config says of earlier cuts; empty for a dense model."""
    config = getattr(structure.model.config, "quantization_config", None)
    if isinstance(config, dict):
        return TrimformerConfig(**config)
    return config if config is not None and hasattr(config, "kept") else TrimformerConfig()


def _write_config(structure: Structure, new: TrimformerConfig) -> None:
    if new.kept:
        structure.model.config.quantization_config = new
        carry_this_file(structure.model)


def _resize_attention(structure: Structure, site: Site, core: str, heads: int) -> None:
    if heads == 0:
        empty_attention(structure.base, core, _owned_output(site))
        return
    for path, value in _head_counts(structure, site, heads).items():
        owner, _, name = path.rpartition(".")
        setattr(structure.base.get_submodule(owner), name, value)


def _head_counts(structure: Structure, site: Site, heads: int | None = None) -> dict[str, int]:
    heads = site.units if heads is None else heads
    sizes = {"heads": heads, "features": heads * site.unit_width}
    return {f"{site.core}.{name}": sizes[what] for name, what in structure.architecture.head_counts.items()}


def _owned_output(site: Site) -> str | None:
    """The consumer's name inside the attention module, None where it is outside."""
    inside = f"{site.core}."
    return site.consumer.removeprefix(inside) if site.consumer.startswith(inside) else None


def _replace(parameter: Tensor, values: Tensor) -> None:
    """Other values of another size; it stays the same parameter, so that its `requires_grad` can still be restored."""
    parameter.data = values.contiguous()
    parameter.grad = None
