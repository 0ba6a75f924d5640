"""Query heads that share key and value heads, in slots: one of every group, which stay or go together."""

from __future__ import annotations

import torch
from torch import Tensor

from trimformer.errors import UnsupportedModel
from trimformer.model.description import Attention, Fused
from trimformer.model.modeling_trimformer import TrimformerConfig, sizes_of
from trimformer.model.query_heads import by_dimension, by_slot
from trimformer.model.sites import Scores, Site
from trimformer.model.structure import Structure, read_structure
from trimformer.model.surgery import select


def are_grouped(structure: Structure) -> bool:
    """Tell whether several query heads share a key and value head, and are one unit, anywhere in a model."""
    return any(site.query_heads > site.groups for site in structure)


def read_by_slot(structure: Structure) -> Structure:
    """Read a model again, with slots as the units of its attention.

    Raises:
        UnsupportedModel: its attention cannot have fewer query heads for each key and value head; says why.
    """
    for site in structure.occupied:
        sublayer = structure.sublayer(site)
        if not isinstance(sublayer, Attention) or sublayer.multi_query:
            continue
        core = structure.module(site.core) if site.core else None
        mixed = any(isinstance(each, Fused) and each.by_unit for each in sublayer.producers)
        if sublayer.tied or sublayer.by_head or mixed or not hasattr(core, sublayer.sharing):
            raise UnsupportedModel(
                f"query heads of {site.name} cannot go one by one: its {type(core).__name__} "
                + ("has norms over all heads" if sublayer.tied else "takes their number from elsewhere")
                + "; `heads` takes key/value heads, with the query heads of each"
            )
    return read_structure(structure.model, by_slot(structure.architecture))


def can_narrow(structure: Structure, site: Site) -> bool:
    """Tell whether the heads of a site may be narrower than the config says."""
    sublayer = structure.sublayer(site)
    return isinstance(sublayer, Attention) and sublayer.head_size is not None


def read_by_dimension(structure: Structure) -> Structure:
    """Read a model again, with dimensions of heads as the units of its attention.

    Raises:
        UnsupportedModel: its heads cannot be narrower.
    """
    found = read_structure(structure.model, by_dimension(structure.architecture))
    if not any(site.head_width for site in found):
        raise UnsupportedModel(
            f"heads of {type(structure.model).__name__} cannot be narrower: give their number, such as `heads=8`"
        )
    return found


@torch.no_grad()
def order_query_heads(structure: Structure, worth: Scores) -> dict[str, Tensor]:
    """Move query heads within their groups, in place, the worthiest first: slots are then of like worth.

    The model computes the same as before. Where each of its query heads was before is noted in its config.

    Args:
        structure: with slots as units.
        worth: of every query head, `(query heads,)`, by site.

    Returns:
        By site, the place that each query head had before, `(query heads,)`.
    """
    before: dict[str, Tensor] = {}
    config = sizes_of(structure.model.config) or TrimformerConfig()
    for site in structure.occupied:
        if not structure.has_slots(site):
            continue
        places = worth[site.name].cpu().reshape(site.groups, site.units).argsort(dim=1, descending=True, stable=True)
        order = (places + torch.arange(site.groups)[:, None] * site.units).flatten()
        with structure.in_memory(site):
            for producer in site.producers:
                moved = _widened(order, producer.widths[0])
                stay = torch.arange(len(moved), len(moved) + producer.shared)
                select(structure.projection(producer.path), torch.cat([moved, stay]), outputs=True)
            features = _widened(order, site.unit_width // site.groups)
            select(structure.projection(site.consumer), features, outputs=False)
        known = config.query_heads.get(site.name, range(len(order)))
        config.query_heads[site.name] = torch.tensor(known)[order].tolist()
        before[site.name] = order
    structure.model.config.quantization_config = config
    return before


def _widened(order: Tensor, width: int) -> Tensor:
    """Give the numbers of the features of some heads: `(heads,)` -> `(heads * width,)`."""
    return (order[:, None] * width + torch.arange(width)).flatten()
