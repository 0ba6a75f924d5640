"""Floating-point operations of attention and FFN, as both papers count them: 2 per multiply-add, biases left out."""

from __future__ import annotations

from trimformer.interfaces import Site
from trimformer.structure import Structure


class Flops:
    """FLOPs of one sequence of mean length `T`.

    head: `2·T·4·d·w + 4·T²·w` (query, key, value, output projections; scores and weighted sum);
    neuron: `2·T·(producers + 1)·d`; `d` the width of the residual stream, `w` that of a head.
    """

    description = "floating-point operations of attention and FFN at the mean sequence length"

    def per_unit(self, structure: Structure, sequence_length: float) -> dict[str, float]:
        """FLOPs that cutting one unit saves, by site name, for sites that have any."""
        return {site.name: _unit_flops(site, structure.width, sequence_length) for site in structure if site.units}


def _unit_flops(site: Site, width: int, length: float) -> float:
    projections = 2 * length * (len(site.producers) + 1) * width * site.unit_width
    return projections + (4 * length**2 * site.unit_width if site.kind == "head" else 0)


PROVIDES = {"flops": Flops()}
