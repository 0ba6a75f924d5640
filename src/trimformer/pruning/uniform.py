"""The same number of units in every layer, so that the pruned model is one of its own class with smaller sizes.

How heads and neurons share the budget is what the method chooses when it is free; then it prunes once more, with a
number of units for each layer that it cannot exceed. Which units stay is its own choice in every layer.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from trimformer.errors import InvalidOption, UnreachableTarget, UnsupportedModel
from trimformer.model.sites import Masks
from trimformer.model.structure import Structure, read_structure
from trimformer.model.surgery import class_accepts, pruning_config
from trimformer.observing.measurements import Measured
from trimformer.pruning.budget import CostTables
from trimformer.pruning.choose.search import ROUNDING
from trimformer.pruning.contract import Job, Method

FAR = 10.0
"""Cost of a unit too many, in multiples of what all units cost."""
SLACK = 1e-6
"""Relative excess over the limit that passes as rounding of such costs; a unit too many never fits into it."""


def check_uniform(structure: Structure) -> None:
    """Refuse a model whose class cannot have fewer units, or whose layers already differ.

    Raises:
        UnsupportedModel: says which.
    """
    config = pruning_config(structure)
    if config.kept or config.biases:
        raise UnsupportedModel("the layers of this model already differ: prune the original with uniform sizes")
    if "neuron" not in structure.architecture.stock.values():
        raise UnsupportedModel(
            f"the class {type(structure.model).__name__} has no config entry for its number of neurons"
        )


def uniform_job(job: Job, masks: Masks) -> Job:
    """Make the same job on a new student, where every layer may keep only so many heads and so many neurons.

    Args:
        job: one without that limit.
        masks: what the method chose in it; their mean number of heads is come as near to as the budget allows.

    Raises:
        UnreachableTarget: the budget is too small for one neuron a layer, beside all heads where these must stay.
    """
    allowed = {site.name: site.units for site in job.dense}
    heads = [site.name for site in job.dense if site.kind == "head"]
    neurons = [site.name for site in job.dense if site.kind == "neuron"]
    may_go = "head" in job.dense.architecture.stock.values()
    wanted = sum(int(masks[name].sum()) for name in heads) / len(heads)
    found: dict[int, int] = {}
    possible = range(1 if may_go else allowed[heads[0]], allowed[heads[0]] + 1)
    for count in (each for each in possible if not may_go or class_accepts(job.dense, each)):
        left = job.limit * (1 + ROUNDING) - sum(float(job.costs[name][count]) for name in heads)
        fitting = int((sum(job.costs[name] for name in neurons) <= left).sum()) - 1  # type: ignore[union-attr]
        if fitting >= 1:
            found[count] = fitting
    if not found:
        raise UnreachableTarget(
            "uniform sizes within this budget would leave no neuron: ask for a larger share, "
            f"or for sizes by layer{'' if may_go else ' (this class cannot have fewer heads in all layers)'}"
        )
    count = min(found, key=lambda heads: (abs(heads - wanted), -heads))
    counts = dict.fromkeys(heads, count) | dict.fromkeys(neurons, found[count])
    return replace(
        job,
        student=read_structure(copy.deepcopy(job.dense.model)),
        costs=_capped(job.costs, counts),
        stock=True,
        limit=job.limit * (1 + SLACK),
        uncapped=job.costs,
    )


def prune_uniformly(method: Method, job: Job, measured: Measured) -> Masks:
    """Prune a uniform job by the method, and give the masks, checked to be uniform.

    Raises:
        InvalidOption: the method has a way of its own to divide a budget, and keeps to no number of units.
    """
    name = type(method).__name__
    try:
        masks = method.prune(job, measured)
    except InvalidOption as error:
        raise InvalidOption(f"{name} cannot prune to uniform sizes: use another method, or sizes by layer") from error
    for kind in ("head", "neuron"):
        if len({int(masks[site.name].sum()) for site in job.dense if site.kind == kind}) > 1:
            raise InvalidOption(f"{name} cannot keep as many {kind}s in every layer, choose another method")
    return masks


def _capped(tables: CostTables, counts: dict[str, int]) -> CostTables:
    """Make tables in which units beyond a count cost more than everything."""
    far = FAR * sum(float(table[-1]) for table in tables.values())
    beyond = {name: (torch.arange(len(table)) - counts[name]).clamp(min=0) for name, table in tables.items()}
    return {name: table + far * beyond[name] for name, table in tables.items()}
