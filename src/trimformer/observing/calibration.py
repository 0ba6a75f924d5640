"""Calibration: the dense model with its batches, and the one place to collect statistics, `Calibration.collect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from trimformer import processes
from trimformer.data.batches import padded_tokens, sequence_count, shape
from trimformer.data.rows import Batch
from trimformer.model.sites import Site
from trimformer.model.structure import Structure
from trimformer.observing.entering import entering_passes
from trimformer.observing.measurements import M, from_tensors, to_tensors
from trimformer.observing.watching import below_the_head, check_finite, frozen, watching
from trimformer.progress import Progress

Part = TypeVar("Part")
Sums = dict[str, Tensor]
"""Running sums of one site by name, added to in place."""


@dataclass(frozen=True)
class Seen:
    """Input of one site's consumer on one batch."""

    site: Site
    number: int
    """Number of the batch in this process's share, from 0."""
    mask: Tensor | None
    """Real tokens of the batch, bool `(batch, length)`; None where all are."""
    inputs: Tensor
    """The consumer's input, `(batch, length, features)`, the features of each unit together."""

    @property
    def rows(self) -> Tensor:
        """The consumer's input without padding: `(tokens, features)`."""
        return self.inputs.flatten(0, 1) if self.mask is None else self.inputs[self.mask]


@dataclass(frozen=True)
class SeenBackward(Seen):
    """Input of one site's consumer on one batch, and the gradient of the batch's loss there.

    Where the sublayer runs several times, the tokens of all passes are side by side, as if they were more tokens.
    """

    gradients: Tensor
    """The gradient at the consumer's input, `(batch, length, features)`; zero at padding."""
    sequences: int
    """Calibration sequences of the batch."""

    @property
    def by_sequence(self) -> tuple[Tensor, Tensor]:
        """Inputs and gradients with all choices of a sequence in one row: `(sequences, tokens, features)` each."""
        shape = (self.sequences, -1, self.inputs.shape[-1])
        return self.inputs.reshape(shape), self.gradients.reshape(shape)


Add = Callable[[Sums, Seen], None]
AddBackward = Callable[[Sums, SeenBackward], None]
"""Functions that add what a batch shows at a site to the site's sums; the second sees gradients too."""
Loss = Callable[[int], Tensor]
"""Function from the number of a batch, in this process's share, to its loss: a scalar with a gradient."""


@dataclass(frozen=True)
class Calibration:
    """Model, batches, seed and progress bar of collecting statistics. `dense` is as it was given and never changed.

    Every process has all batches; `collect` and `by_site` share the work among them, and give all of them all of it.
    """

    dense: Structure
    batches: list[Batch]
    seed: int
    progress: Progress
    labels: list[Batch] | None = field(default=None, kw_only=True)
    """Labels of the rows of each batch, for a method that needs them; None for all others."""

    @cached_property
    def tokens_by_batch(self) -> list[list[int]]:
        """Tokens of every batch, padding excluded: a list for each chain of the model."""
        chains = range(len(self.dense.architecture.chains))
        return [[self._tokens_of(batch, chain) for batch in self.batches] for chain in chains]

    def _tokens_of(self, batch: Batch, chain: int) -> int:
        mask = self.dense.token_mask(batch, chain)
        return entering_passes(self.dense, batch, chain)[0].shape[:2].numel() if mask is None else int(mask.sum())

    @cached_property
    def tokens(self) -> int:
        """Calibration tokens, padding excluded, as the first chain of the model has them."""
        return sum(self.tokens_by_batch[0])

    @cached_property
    def sequences(self) -> int:
        """Calibration sequences."""
        return sum(shape(batch)[0] for batch in self.batches)

    @property
    def mean_length(self) -> float:
        """Mean number of tokens of a sequence, `T̄`; in multiple choice of a choice."""
        return self.tokens / sum(map(sequence_count, self.batches))

    @cached_property
    def places(self) -> list[int]:
        """Indices of the batches that this process computes; all of them where it is alone."""
        return processes.own_places([padded_tokens(batch) for batch in self.batches])

    def share(self, by_batch: Sequence[Part]) -> list[Part]:
        """Pick this process's part of a sequence that has one entry for every batch."""
        return [by_batch[place] for place in self.places]

    def by_batch(self, values: Tensor, chain: int = 0) -> tuple[Tensor, ...]:
        """Split values by token of a chain, `(tokens, …)`, into views batch by batch."""
        parts: tuple[Tensor, ...] = values.split(self.tokens_by_batch[chain])
        return parts

    def by_row(self, values: Tensor) -> tuple[Tensor, ...]:
        """Split values by sequence, `(sequences, …)`, into views batch by batch."""
        parts: tuple[Tensor, ...] = values.split([shape(batch)[0] for batch in self.batches])
        return parts

    def collect(
        self,
        sites: Sequence[Site],
        zeros: Callable[[Site], Sums],
        *,
        inputs: Add | None = None,
        gradients: AddBackward | None = None,
        loss: Loss | None = None,
        description: str | None = None,
    ) -> dict[str, Sums]:
        """Run this process's batches, add up what consumers read (and the gradients there), over all processes.

        The model is frozen meanwhile. What is seen has padding in it: `Seen.rows` leaves it out.

        Args:
            sites: whose consumers are watched.
            zeros: the sums of a site to begin with, float64.
            inputs: adds what a forward pass shows.
            gradients: adds what a backward pass shows; needs `loss`.
            loss: runs a batch and gives its loss; None runs the model below its head.
            description: of the bar; None shows none.

        Raises:
            NumericalError: a sum is NaN or infinite; names the site.
        """
        dense, batches = self.dense, self.share(self.batches)
        found = {site.name: zeros(site) for site in sites}
        with frozen(dense.model):
            for number, batch in enumerate(self.progress(batches, description) if description else batches):
                masks = [_padding(dense.token_mask(batch, chain)) for chain in range(len(dense.architecture.chains))]
                with _adding(self.dense, found, (inputs, gradients), (number, shape(batch)[0]), masks):
                    if loss is None:
                        below_the_head(dense, batch)
                    else:
                        loss(number).backward()
        processes.add_up(*(values for sums in found.values() for values in sums.values()))
        for site, sums in found.items():
            for values in sums.values():
                check_finite(values, site)
        return found

    def on(self, structure: Structure) -> Calibration:
        """Make a calibration of the same batches on another model with the same chains, such as the student."""
        return Calibration(structure, self.batches, self.seed, self.progress, labels=self.labels)

    def by_site(
        self, sites: Sequence[Site], kind: type[M], compute: Callable[[Site], M], description: str | None = None
    ) -> dict[str, M]:
        """Compute a measurement of each site alone; processes share the sites, and get all of it.

        Without `description` no bar is shown.
        """
        own = [sites[place] for place in processes.own_places([float(site.features) ** 3 for site in sites])]
        shown = self.progress(own, description) if description else own
        found = to_tensors({site.name: compute(site) for site in shown})
        return from_tensors(kind, processes.gathered(found), [site.name for site in sites])


def _padding(mask: Tensor | None) -> Tensor | None:
    """Give a token mask, or None where it leaves nothing out."""
    return None if mask is None or bool(mask.all()) else mask


@contextmanager
def _adding(
    structure: Structure,
    found: Mapping[str, Sums],
    add: tuple[Add | None, AddBackward | None],
    which: tuple[int, int],
    masks: Sequence[Tensor | None],
) -> Iterator[None]:
    """Within the context, passes over a batch, of a number and so many rows, add to the sums of sites.

    The first of `add` is given inputs, the second inputs with gradients.
    """
    (inputs, gradients), (number, rows) = add, which
    passes: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in found}

    def see_input(site: Site, hidden: Tensor) -> None:
        if inputs is not None:
            inputs(found[site.name], Seen(site, number, masks[site.chain], site.by_unit(hidden)))

    def see_gradient(site: Site, hidden: Tensor, gradient: Tensor) -> None:
        seen, mask = passes[site.name], masks[site.chain]
        seen.append((site.by_unit(hidden), site.by_unit(gradient)))
        if gradients is not None and len(seen) == site.passes:
            inputs_there, gradients_there = (torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))
            every = None if mask is None else mask.repeat(1, site.passes)
            gradients(found[site.name], SeenBackward(site, number, every, inputs_there, gradients_there, rows))

    watch = watching(
        structure,
        [structure[name] for name in found],
        inputs=see_input if inputs else None,
        input_gradients=see_gradient if gradients else None,
    )
    with torch.set_grad_enabled(gradients is not None), watch:
        yield
