"""Floating-point operations of attention and FFN, as both papers count them: 2 per multiply-add, biases left out."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trimformer.data.batches import Workload
from trimformer.model.sites import Site
from trimformer.model.structure import Structure
from trimformer.pruning.budget import Prices, linear_table


class Flops:
    """FLOPs of one sequence of mean length `T`.

    Projections of a unit: `2·T·d·(p + w)`; of heads also scores and weighted sum: `4·T·min(T, s)·w`. `d` is the width
    of the residual stream, `w` that of the unit, `p` its query, key and value features, or its projections before the
    activation, `s` the tokens of the attention window, if there is one. What all units of a site share, such as the one
    key and value head of multi-query attention, goes with the last of them. Causal attention is counted as if every
    token saw all others. Scores against `P` positions are `2·T·P·w`; what is computed once for all sequences of a batch
    is not counted. A sublayer that runs several times, as all of ALBERT's do, counts as often.
    """

    description = "floating-point operations of attention and FFN at the mean sequence length"

    def prices(self, structure: Structure, workload: Workload, **_: Any) -> Prices:
        """Count the FLOPs that a unit adds; the first of a site brings what all of them share."""
        length = workload.sequence_length
        return Prices({site.name: _table(structure, site, length) for site in structure})


def _table(structure: Structure, site: Site, length: float) -> Tensor:
    shared = sum(weight.numel() for weight, _ in structure.shared_outputs(site))
    once = linear_table(site.units, _unit_flops(site, length), first=2 * length * shared)
    return site.passes * once


def _unit_flops(site: Site, length: float) -> float:
    once = sum(each.inputs * each.width for each in site.producers if not each.of_tokens)
    projections = 2 * length * (site.unit_weights - once)
    seen = length if site.window is None else min(length, site.window)
    return projections + ((4 * seen + 2 * site.positions) * length * site.unit_width if site.attends else 0)


PROVIDES = {"flops": Flops()}
