"""Parameters of attention and FFN: the weights and biases that go when a unit is cut."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trimformer.data.batches import Workload
from trimformer.model.sites import Site
from trimformer.model.structure import Structure
from trimformer.pruning.budget import Prices, linear_table


class Parameters:
    """Parameters of units: producer rows with their biases, and consumer columns; the consumer's own bias stays."""

    description = "weights and biases of attention and FFN that go when a unit is cut"

    def prices(self, structure: Structure, workload: Workload, **_: Any) -> Prices:
        """Count the parameters that a unit adds, for any workload: the same for every unit of a site.

        What all units of a site share counts with the first of them.
        """
        return Prices({site.name: _table(structure, site) for site in structure})


def _table(structure: Structure, site: Site) -> Tensor:
    shared = [each for pair in structure.shared_outputs(site) for each in pair if each is not None]
    return linear_table(site.units, _unit_parameters(site), first=sum(each.numel() for each in shared))


def _unit_parameters(site: Site) -> int:
    if not site.units:  # the producers are gone
        return 0
    biases = sum(producer.width for producer in site.producers if producer.bias)
    return site.unit_weights + biases


PROVIDES = {"params": Parameters()}
