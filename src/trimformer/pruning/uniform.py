"""The same number of units in every layer, so that the pruned model is one of its own class with smaller sizes.

How heads and neurons share the budget is what the method chooses when it is free; then it prunes once more, with a
number of units for each layer that it keeps to. Which units stay is its own choice in every layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from trimformer.errors import InvalidOption, UnreachableTarget, UnsupportedModel
from trimformer.model.sites import Masks, Site
from trimformer.model.structure import Structure
from trimformer.model.surgery import class_accepts, pruning_config
from trimformer.pruning.choose.search import ROUNDING
from trimformer.pruning.contract import LAYER, Job, Method


def check_uniform(structure: Structure, name: str, method: Method) -> None:
    """Refuse a model whose class cannot have fewer units, or whose layers already differ; and a method for layers.

    Raises:
        InvalidOption: the method of that name removes whole layers, so that those left are as large as before.
        UnsupportedModel: says which.
    """
    if method.removes == LAYER:
        raise InvalidOption(f"{name} removes whole layers: it has no use for uniform sizes; leave them out")
    config = pruning_config(structure)
    if config.kept or config.biases:
        raise UnsupportedModel("the layers of this model already differ: prune the original with uniform sizes")
    if "neuron" not in structure.architecture.stock.values():
        raise UnsupportedModel(
            f"the class {type(structure.model).__name__} has no config entry for its number of neurons"
        )


def uniform_job(job: Job, masks: Masks) -> Job:
    """Make the same job on a new student, where every layer keeps as many heads, and as many neurons.

    Args:
        job: one without these sizes; its own bounds hold all the same.
        masks: what the method chose in it; their mean number of heads is come as near to as the budget allows.

    Raises:
        UnreachableTarget: the budget is too small for one neuron a layer, beside all heads where these must stay.
    """
    check_fits(job)
    heads, neurons = _of_kind(job, "head"), _of_kind(job, "neuron")
    wanted = sum(int(masks[site.name].sum()) for site in heads) / len(heads)
    fewest_neurons, most_neurons = _common(job, neurons)
    found: dict[int, int] = {}
    for count, cost in _heads(job).items():
        left = job.limit * (1 + ROUNDING) - cost
        fitting = int((sum(job.costs[site.name] for site in neurons) <= left).sum()) - 1  # type: ignore[union-attr]
        if fitting >= fewest_neurons:
            found[count] = min(fitting, most_neurons)
    count = min(found, key=lambda heads: (abs(heads - wanted), -heads))
    sizes = {site.name: count for site in heads} | {site.name: found[count] for site in neurons}
    return replace(
        job,
        student=job.dense.copied(),
        bounds=job.bounds.with_range({name: (size, size) for name, size in sizes.items()}),
        stock=True,
    )


def least_cost(job: Job) -> float:
    """Compute what the smallest uniform sizes cost: one neuron a layer, beside all heads where these must stay."""
    neurons = _of_kind(job, "neuron")
    fewest, _ = _common(job, neurons)
    return min(_heads(job).values(), default=math.inf) + sum(float(job.costs[site.name][fewest]) for site in neurons)


def check_fits(job: Job) -> None:
    """Refuse a limit that even the smallest uniform sizes exceed.

    Raises:
        UnreachableTarget: says why, and what to ask for.
    """
    if job.limit * (1 + ROUNDING) < least_cost(job):
        raise UnreachableTarget(
            "uniform sizes within this budget would leave no neuron, or not those asked for: ask for a larger share, "
            "or for sizes by layer"
            + ("" if _heads_may_go(job) else " (this class cannot have fewer heads in all layers)")
        )


def _heads(job: Job) -> dict[int, float]:
    """List how many heads all layers may keep alike, each with what they cost together."""
    heads, may_go = _of_kind(job, "head"), _heads_may_go(job)
    fewest, most = _common(job, heads)
    possible = range(fewest if may_go else heads[0].units, most + 1)
    return {
        count: sum(float(job.costs[site.name][count]) for site in heads)
        for count in possible
        if not may_go or class_accepts(job.dense, count)
    }


def _heads_may_go(job: Job) -> bool:
    return bool({"head", "query head"} & set(job.dense.architecture.stock.values()))


def _of_kind(job: Job, kind: str) -> list[Site]:
    return [site for site in job.dense if site.kind == kind]


def _common(job: Job, sites: Sequence[Site]) -> tuple[int, int]:
    """Give the fewest, at least one, and the most units that all of some sites may keep."""
    ranges = [job.bounds.of(site.name, site.units) for site in sites]
    return max(1, *(least for least, _ in ranges)), min(most for _, most in ranges)
