"""Parameters of attention and FFN: the weights and biases that go when a unit is cut."""

from __future__ import annotations

from trimformer.interfaces import Site
from trimformer.structure import Structure


class Parameters:
    """Producer rows with their biases, and consumer columns; the consumer's own bias stays and is not counted."""

    description = "weights and biases of attention and FFN that go when a unit is cut"

    def per_unit(self, structure: Structure, sequence_length: float) -> dict[str, float]:
        """Parameters that cutting one unit removes, by site name, for sites that have any; at any length."""
        return {site.name: float(_unit_parameters(structure, site)) for site in structure if site.units}


def _unit_parameters(structure: Structure, site: Site) -> int:
    biases = sum(structure.linear(path).bias is not None for path in site.producers)
    return site.unit_width * ((len(site.producers) + 1) * structure.width + biases)


PROVIDES = {"params": Parameters()}
