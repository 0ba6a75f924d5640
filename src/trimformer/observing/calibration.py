"""What a method works on: the dense model, the student, the calibration batches and the limit; and the refit walk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from torch import Tensor

from trimformer import processes
from trimformer.data.batches import token_count
from trimformer.data.rows import Batch
from trimformer.model.sites import Site
from trimformer.model.structure import Structure
from trimformer.progress import Progress

Part = TypeVar("Part")


@dataclass(frozen=True)
class Calibration:
    """What statistics are collected from. `dense` is the model as it was given and is never changed.

    Every process has all batches. A method that runs only its `share` of them adds up what it collected, by `ranks`.
    """

    dense: Structure
    batches: list[Batch]
    seed: int
    progress: Progress
    labels: list[Batch] | None = field(default=None, kw_only=True)
    """Of the rows of each batch, for a method that needs them; None for all others."""

    @cached_property
    def tokens(self) -> int:
        """Calibration tokens, padding excluded."""
        return token_count(self.batches)

    @cached_property
    def sequences(self) -> int:
        """Calibration sequences."""
        return sum(len(batch["input_ids"]) for batch in self.batches)

    @property
    def mean_length(self) -> float:
        """Mean number of tokens of a sequence, `T̄`."""
        return self.tokens / self.sequences

    @cached_property
    def places(self) -> list[int]:
        """Which batches this process computes; all of them where it is alone."""
        return processes.own_places([batch["input_ids"].numel() for batch in self.batches])

    def share(self, by_batch: Sequence[Part]) -> list[Part]:
        """Of what there is by batch, the part of this process."""
        return [by_batch[place] for place in self.places]

    def by_batch(self, values: Tensor) -> tuple[Tensor, ...]:
        """Views of values by token, `(tokens, …)`, batch by batch."""
        parts: tuple[Tensor, ...] = values.split([token_count([batch]) for batch in self.batches])
        return parts

    def by_site(
        self, sites: Sequence[Site], description: str | None, compute: Callable[[Site], dict[str, Tensor]]
    ) -> Measured:
        """What is computed of each site alone, as `<site>.<name>`: processes share the sites; all have all of it.

        Without a description there is no bar.
        """
        own = [sites[place] for place in processes.own_places([float(site.features) ** 3 for site in sites])]
        found = processes.gathered(
            {
                f"{site.name}.{name}": values
                for site in (self.progress(own, description) if description else own)
                for name, values in compute(site).items()
            }
        )
        order = {site.name: number for number, site in enumerate(sites)}
        return {name: found[name] for name in sorted(found, key=lambda name: order[name.rpartition(".")[0]])}


Measured = dict[str, Tensor]
"""What a method measured before any budget was known, by name; safe to store and to reuse for other budgets."""
