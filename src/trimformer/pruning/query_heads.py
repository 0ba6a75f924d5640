"""Query heads as units where sizes ask for it: slots, one of every key/value head, the worst in one slot.

A key/value head is to keep as many query heads as every other of its layer. So the query heads are first judged one by
one, by the method, and moved within their groups by falling worth, which changes nothing that the model computes; slots
of these are then units like any other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimformer import processes
from trimformer.model.query_heads import one_by_one
from trimformer.model.sites import Masks
from trimformer.model.slots import are_grouped, order_query_heads, read_by_dimension, read_by_slot
from trimformer.model.structure import Structure, read_structure
from trimformer.observing.measurements import Measured
from trimformer.pruning.contract import Job, JudgesUnits
from trimformer.pruning.sizes import Sizes


def with_asked_units(structure: Structure, sizes: Sizes | None) -> Structure:
    """Give a model with the units that sizes ask for: as it was read, by slot, or by dimensions of heads.

    Raises:
        UnsupportedModel: its query heads cannot go one by one, or its heads not be narrower; says why.
    """
    if sizes is not None and sizes.by_dimension:
        return read_by_dimension(structure)
    asked = sizes is not None and sizes.by_query_head and are_grouped(structure)
    return read_by_slot(structure) if asked else structure


def one_by_one_in(slots: Structure) -> Structure:
    """Read the model of a structure by slot again, with every query head as a unit, to judge them."""
    return read_structure(slots.model, one_by_one(slots.architecture))


def order_by_worth(slots: Structure, method: JudgesUnits, job: Job, measured: Measured) -> dict[str, Tensor]:
    """Move query heads within their groups, in place, those that a method misses least into the last slots.

    Args:
        slots: the model by slot.
        method: that judges.
        job: on the same model with every query head as a unit.
        measured: by the method, of these units.

    Returns:
        By site, the place that each query head had before, `(query heads,)`.
    """
    worth = {name: processes.agreed(each.double()) for name, each in method.worth(job, measured).items()}
    return order_query_heads(slots, worth)


def by_place(masks: Masks, places: Mapping[str, Tensor]) -> Masks:
    """Give masks with an entry for every query head, where it was before, for sites that have slots in order of worth.

    Args:
        masks: of all sites, by slot where query heads were moved.
        places: as `order_by_worth` gave them.
    """
    found = dict(masks)
    for name, before in places.items():
        mask = masks[name].repeat(len(before) // len(masks[name]))
        found[name] = torch.empty_like(mask).scatter(0, before, mask)
    return found
