"""Switch units off without touching weights: the mask multiplies the consumer's input.

Of dimensions of heads, the producers' outputs, because scores depend on those of queries and keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimformer.errors import InvalidOption
from trimformer.model.sites import Masks, Producer, Site
from trimformer.model.structure import Structure
from trimformer.model.trimformer_modules import BiasOnly, Projection


def check_masks(structure: Structure, masks: Masks) -> None:
    """Refuse masks that do not fit the sites.

    Raises:
        InvalidOption: a site without mask, a mask without site, or one of the wrong length or type.
    """
    if masks.keys() != {site.name for site in structure}:
        raise InvalidOption(f"masks are needed for exactly these sites: {', '.join(s.name for s in structure)}")
    for site in structure:
        mask = masks[site.name]
        if mask.dtype is not torch.bool or mask.shape != (site.units,):
            by_group = f", one entry for every {site.query_heads} query heads that share a key and value head"
            grouped = by_group if site.query_heads > site.groups else ""
            raise InvalidOption(
                f"mask of {site.name} must be bool of shape ({site.units},){grouped}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )


@contextmanager
def masked(structure: Structure, masks: Masks) -> Iterator[None]:
    """Within the context, the model computes as if the units with mask False were cut.

    Raises:
        InvalidOption: masks that do not fit the sites.
    """
    check_masks(structure, masks)
    with ExitStack() as stack:
        for site in structure:
            mask = masks[site.name]
            stack.callback(_multiply_input(structure.consumer(site), site, mask).remove)
            for producer in site.producers if site.head_width else ():
                stack.callback(_multiply_output(structure, producer, mask).remove)
        yield


def feature_mask(site: Site, mask: Tensor) -> Tensor:
    """Repeat a mask, or another number of each unit, for the consumer's input: `(units,)` -> `(features,)`."""
    return mask.repeat_interleave(site.unit_width // site.groups).repeat(site.groups)


def producer_mask(producer: Producer, mask: Tensor) -> Tensor:
    """Repeat a mask for a producer's outputs, part after part; what is shared stays: `(units,)` -> `(outputs,)`."""
    shared = mask.new_ones(producer.shared)
    return torch.cat([*(mask.repeat_interleave(width) for width in producer.widths), shared])


def _multiply_output(structure: Structure, producer: Producer, mask: Tensor) -> RemovableHandle:
    factor = producer_mask(producer, mask)

    def multiply(_: nn.Module, __: tuple[Tensor], output: Tensor) -> Tensor:
        return output * factor.to(output)

    return structure.module(producer.path).register_forward_hook(multiply)


def _multiply_input(consumer: Projection | BiasOnly, site: Site, mask: Tensor) -> RemovableHandle:
    factor = feature_mask(site, mask)

    def multiply(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0] * factor.to(inputs[0])

    return consumer.register_forward_pre_hook(multiply)
