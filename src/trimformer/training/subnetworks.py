"""Sub-networks of a model, which compute with its own weights: fewer units of every sublayer, fewer blocks.

Source: Hou et al., DynaBERT (NeurIPS 2020), sections 2.1 and 2.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trimformer.data.rows import Batch
from trimformer.model.depth import cut_out, original_name
from trimformer.model.masking import feature_mask, producer_mask
from trimformer.model.sites import Masks, Scores, Site
from trimformer.model.structure import Structure


def widest(structure: Structure, importance: Scores, width: float) -> Masks:
    """Keep the most important `round(units · width)` units of every site, at least one.

    To keep these is to order all units by importance, once and for all, and to take the first ones: a model computes
    the same whatever the order of its units.
    """
    masks = {}
    for site in structure:
        mask = torch.zeros(site.units, dtype=torch.bool)
        count = min(site.units, max(1, round(site.units * width)))
        mask[importance[site.name].cpu().argsort(descending=True, stable=True)[:count]] = True
        masks[site.name] = mask
    return masks


def spread(blocks: int, depth: float) -> list[int]:
    """Choose the blocks that stay at a depth: `⌊i / depth⌋` for `i < round(depth · blocks)`, at least one.

    >>> spread(12, 0.75), spread(6, 0.5)
    ([0, 1, 2, 4, 5, 6, 8, 9, 10], [0, 2, 4])
    """
    return [floor(place / depth) for place in range(max(1, round(depth * blocks)))]


def add_importance(structure: Structure, scores: dict[str, Tensor]) -> None:
    """Add what the gradients of a batch say of units: heads `|Σ w2 g2|`, neurons `|Σ w1 g1 + b1 g1'| + |Σ w2 g2|`.

    `w2` are a unit's rows of the output projection: `Σ w2 g2 = ∂L/∂m`, the gradient of the unit's mask. `w1`, `b1` are
    what fills it; of a gated neuron each of both projections.
    """
    for site in structure.occupied:
        consumer = structure.projection(site.consumer)
        products = site.by_unit(_product(consumer), axis=0)
        found = products.reshape(site.units, -1).sum(1).abs()
        for producer in site.producers if not site.attends else ():
            projection = structure.projection(producer.path)
            by_output = _product(projection).sum(0)
            if projection.bias is not None:
                by_output = by_output + projection.bias.detach() * _gradient(projection.bias)
            at = 0
            for width in producer.widths:
                found = found + by_output[at : at + width * site.units].reshape(site.units, -1).sum(1).abs()
                at += width * site.units
        scores[site.name] = scores.get(site.name, 0) + found.double()


def _product(projection: Any) -> Tensor:
    """Multiply a projection's weight by its gradient, `(inputs, outputs)`."""
    product: Tensor = projection.weight.detach() * _gradient(projection.weight)
    return product if isinstance(projection, Conv1D) else product.T


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@dataclass(frozen=True)
class Taken:
    """A weight of a sub-network: a part of one of the whole model's."""

    source: str
    index: Tensor | None = None
    """Places along an axis; None: all of it."""
    axis: int = 0

    def of(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Take it out of the whole model's weights."""
        whole: Tensor = weights[self.source]
        return whole if self.index is None else whole.index_select(self.axis, self.index.to(whole.device))


class SubNetwork:
    """A smaller model without weights of its own, cut out of a whole one as far as its sizes go.

    Args:
        whole: structure of the whole model.
        masks: units that stay, by site of the whole model.
        blocks: numbers of the blocks that stay.
    """

    def __init__(self, whole: Structure, masks: Masks, blocks: Sequence[int]) -> None:
        self.masks = {
            site.name: masks[site.name] if site.block in blocks else torch.zeros_like(masks[site.name])
            for site in whole
        }
        self.blocks = list(blocks)
        self.shell = cut_out(whole, masks, blocks).to("meta")  # type: ignore[arg-type]  # a device is one
        selected = {
            path: part for site in whole if site.block in blocks for path, part in _parts(whole, site, masks).items()
        }
        prefix = "" if whole.base is whole.model else f"{whole.model.base_model_prefix}."
        self.taken: dict[str, Taken] = {}
        for name in _names(self.shell):
            source = original_name(whole, blocks, name)
            self.taken[name] = selected.get(source.removeprefix(prefix), Taken(""))
            self.taken[name] = Taken(source, self.taken[name].index, self.taken[name].axis)

    def __call__(self, model: PreTrainedModel, batch: Batch, **options: Any) -> Any:
        """Run it with the weights that the whole model has now, which get its gradients."""
        weights = dict(model.named_parameters(remove_duplicate=False)) | dict(
            model.named_buffers(remove_duplicate=False)
        )
        self.shell.train(model.training)
        own = {name: part.of(weights) for name, part in self.taken.items()}
        return functional_call(self.shell, own, kwargs={**batch, **options}, tie_weights=False)


def _names(model: PreTrainedModel) -> list[str]:
    kinds = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return [name for kind in kinds for name, _ in kind]


def _parts(whole: Structure, site: Site, masks: Masks) -> dict[str, Taken]:
    """Say which part of the weights of a site's projections stays, by path of the weight."""
    mask, found = masks[site.name], {}
    if bool(mask.all()):
        return {}
    for producer in site.producers:
        outputs = producer_mask(producer, mask).nonzero()[:, 0]
        axis = 1 if isinstance(whole.projection(producer.path), Conv1D) else 0
        found[f"{producer.path}.weight"] = Taken("", outputs, axis)
        found[f"{producer.path}.bias"] = Taken("", outputs, 0)
    inputs = feature_mask(site, mask).nonzero()[:, 0]
    axis = 0 if isinstance(whole.projection(site.consumer), Conv1D) else 1
    found[f"{site.consumer}.weight"] = Taken("", inputs, axis)
    return found
