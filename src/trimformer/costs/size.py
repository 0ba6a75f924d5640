"""Size of the file of the weights, in bytes: header, embeddings and all else that no budget makes smaller included."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trimformer import plugins
from trimformer.data.batches import Workload
from trimformer.errors import InvalidOption, UnreachableTarget
from trimformer.model.sites import Site
from trimformer.model.structure import Structure
from trimformer.model.weights import file_bytes, stored_tensors, word_share
from trimformer.pruning.budget import Prices

UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "kiB": 2**10, "MiB": 2**20, "GiB": 2**30}
BY_LETTERS = {unit.lower(): factor for unit, factor in UNITS.items()}
AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z]*)\s*")
MOSTLY = 0.5
"""Share of the parameters from which an error names the vocabulary."""


class FileSize:
    """Bytes of the file of the weights as safetensors writes it, each tensor once, in the precision it is stored in.

    It is an upper bound: the header's numbers have as many digits as the dense model's, and every output projection is
    counted with the bias that a refit may give it.
    """

    description = "bytes of the file of the weights, of the whole model"
    example = "45MB"

    def prices(self, structure: Structure, workload: Workload, **_: Any) -> Prices:
        """Count the bytes that a unit adds, and those of the whole file."""
        parameters: Prices = plugins.load("costs", "params").prices(structure, workload)
        tables = {site.name: parameters.tables[site.name] * _width(structure, site, workload) for site in structure}
        units = sum(float(table[-1]) for table in tables.values())
        model, precision = structure.model, workload.stored_dtype
        whole = float(file_bytes(stored_tensors(model, precision) | dict(_possible_biases(structure, workload))))
        return Prices(tables, ((0.0, whole - units), (units, whole)))

    def amount(self, text: str) -> float:
        """Read a size in bytes, of a number with a unit.

        Raises:
            InvalidOption: another unit, or none; says how sizes are written.

        >>> FileSize().amount("45MB"), FileSize().amount("1.5 GiB"), FileSize().amount("300 kb")
        (45000000.0, 1610612736.0, 300000.0)
        """
        found = AMOUNT.fullmatch(text)
        factor = BY_LETTERS.get(found[2].lower()) if found else None
        if found is None or factor is None:
            raise InvalidOption(
                f"`size={text}` must be a size with one of the units {', '.join(UNITS)}, such as {self.example}, or a "
                "share in (0, 1]; for parameters, multiply by the bytes of each: 12 million in float32 are 48MB"
            )
        return float(found[1]) * factor

    def share(self, amount: float, structure: Structure, prices: Prices) -> float:
        """Compute the share of the dense model's file that a number of bytes is.

        Raises:
            UnreachableTarget: no budget comes to it; names those that can be reached.
        """
        least, most = prices.of_sum(0.0), prices.total
        if least <= amount <= most:
            return amount / most
        words = word_share(structure.model)
        helps = (
            f"; {words:.0%} of the parameters are word embeddings, which `trimformer vocabulary`, in Python "
            "`trim_vocabulary`, makes fewer"
        )
        raise UnreachableTarget(
            f"a `size` of {megabytes(amount)} cannot be reached: budgets reach from {megabytes(least)}, without any "
            f"head and neuron, to the {megabytes(most)} of all{helps if amount < least and words > MOSTLY else ''}"
        )


def megabytes(size: float) -> str:
    """Write a number of bytes in MB, or a small one in kB.

    >>> megabytes(45_200_000), megabytes(63_000)
    ('45.2 MB', '63.0 kB')
    """
    unit = "MB" if size >= UNITS["MB"] else "kB"
    return f"{size / UNITS[unit]:.1f} {unit}"


def _width(structure: Structure, site: Site, workload: Workload) -> int:
    """Count the bytes of a number of the site's weights; one without units has none left."""
    own = structure.projection(site.consumer).weight.dtype if site.units else structure.model.dtype
    return (workload.stored_dtype or own).itemsize


def _possible_biases(structure: Structure, workload: Workload) -> Iterator[tuple[str, Tensor]]:
    """Give the biases that output projections do not have, without memory of their own, by name."""
    dtype = workload.stored_dtype or structure.model.dtype
    for site in structure:
        if not site.consumer_bias:
            yield (
                f"{structure.model.base_model_prefix}.{site.consumer}.bias",
                torch.empty(site.width, dtype=dtype, device="meta"),
            )


PROVIDES = {"size": FileSize()}
