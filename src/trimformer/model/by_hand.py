"""Cut units of one's own choice out of a model: names of sublayers and the units that stay -> a smaller model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.errors import InvalidOption, unknown_name
from trimformer.model.arguments import check_flag, told
from trimformer.model.sites import Site
from trimformer.model.structure import read_structure
from trimformer.model.surgery import cut as cut_by_masks


def cut(model: PreTrainedModel, kept: Mapping[str, Any], *, in_place: bool = False) -> PreTrainedModel:
    """Cut units out of the weights for good; nothing is solved again.

    The smaller model computes what the model computes with the parts of these units in the inputs of the output
    projections set to zero. It is of the same class, and is saved, loaded, trained and pruned further as any other.

    Args:
        model: a transformers model, dense or already pruned.
        kept: by name of a sublayer, see `read_structure`, the units that stay: a bool for every unit, or the numbers of
            those units in any order. A sublayer that is not named keeps all.
        in_place: cut the model itself, in place of a copy.

    Returns:
        The smaller model.

    Raises:
        InvalidOption: a sublayer or a unit that the model does not have; nothing is cut then.
        UnsupportedModel: a model whose sublayers are not known.
    """
    check_flag("in_place", in_place)
    sites = {site.name: site for site in read_structure(model)}
    if not isinstance(kept, Mapping):
        raise InvalidOption(f"`kept={told(kept)}` must be the units that stay, by name of a sublayer")
    for name in kept:
        if name not in sites:
            raise unknown_name("sublayer", name, sites)
    masks = {
        name: as_mask(site, kept[name]) if name in kept else torch.ones(site.units, dtype=torch.bool)
        for name, site in sites.items()
    }
    return cut_by_masks(read_structure(model if in_place else copy.deepcopy(model)), masks).model


def as_mask(site: Site, kept: Any) -> Tensor:
    """Make the mask of a site, `(units,)`, of a bool for every unit or of the numbers of those that stay.

    Raises:
        InvalidOption: it is neither, or speaks of units that the site does not have.
    """
    try:
        given = torch.as_tensor(kept).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise _unfit(site, str(error)) from error
    if given.dim() != 1:
        raise _unfit(site, f"a tensor of shape {tuple(given.shape)}")
    if given.dtype is torch.bool and given.numel():
        if len(given) != site.units:
            raise _unfit(site, f"{len(given)} bools")
        return given.clone()
    mask = torch.zeros(site.units, dtype=torch.bool)
    if not given.numel():
        return mask
    if given.is_floating_point() or given.is_complex():
        raise _unfit(site, f"numbers of type {given.dtype}")
    numbers = given.long()
    if int(numbers.min()) < 0 or int(numbers.max()) >= site.units or len(numbers.unique()) < len(numbers):
        raise _unfit(site, "numbers outside of these, or twice the same")
    mask[numbers] = True
    return mask


def _unfit(site: Site, got: str) -> InvalidOption:
    shared = f", each of {site.query_heads} query heads with their key and value head" if site.query_heads > 1 else ""
    return InvalidOption(
        f"{site.name} has {site.units} {site.kind}s{shared}: give a bool for each, or the numbers from 0 to "
        f"{site.units - 1} of those that stay, each once; got {got}"
    )
