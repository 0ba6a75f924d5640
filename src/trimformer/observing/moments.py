"""Moments that removal curves are made from: of what a sublayer's output projection reads, and of gradients above it.

Where memory allows, one forward and one backward pass of the whole model. Else block by block: up, keeping the hidden
states at every boundary, then down, where each block runs once more, forward and backward, so that no more than one
block's activations, weights and sums are needed at a time. Without gradients, up only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from trimformer import processes
from trimformer.data.batches import padded_tokens
from trimformer.data.rows import Batch
from trimformer.model.offload import is_offloaded
from trimformer.model.sites import Site
from trimformer.observing.boundary import Boundary
from trimformer.observing.calibration import Calibration
from trimformer.observing.predictions import fisher_loss, predictions
from trimformer.observing.resources import available_bytes
from trimformer.observing.sums import RegressionSums
from trimformer.observing.watching import watching, watching_queries

SHARE_OF_MEMORY = 0.25
"""Share of the available memory that the sums of all sites and the activations of a pass may take together."""


@dataclass
class Moments:
    """Sums of one site: of its consumer's input, and where gradients are taken, of those at the consumer's output."""

    site: Site
    inputs: RegressionSums
    gradients: Tensor
    """Sum over tokens of `g gᵀ`, `(width, width)`, or zeros."""
    energy: Tensor
    """`‖g_t‖²` of every token, `(tokens,)`, or zeros."""
    scores: Tensor
    """Where units are dimensions of heads, sum over sequences of `(Σ_t q_t ∂/∂q_t)²`, `(units,)`: by their queries."""


Group = dict[str, Moments]
"""Moments by site name, of sites whose moments come at the same time: all, or those of one block."""


def moments(
    calibration: Calibration, *, gradients: bool, of: Callable[[Site], bool] = bool, text: str = "measuring curvature"
) -> Iterator[Group]:
    """Yield the moments of every site that has units, by group, which can be forgotten before the next is asked for.

    Several processes share the batches, and each gets the moments of all; of sites that `of` picks, if it is given, and
    with a text that says what for.

    Raises:
        UnsupportedModel: the model computes on several devices.
    """
    if not gradients:
        return _upwards(calibration)
    return _together(calibration, of, text) if _fit_together(calibration) else _downwards(calibration, of)


def _fit_together(calibration: Calibration) -> bool:
    """Tell whether one pass of the whole model may keep everything.

    Several chains always go together, and blocks that run several times.
    """
    dense, batches = calibration.dense, calibration.batches
    if len(dense.architecture.chains) > 1 or dense.passes() > 1:
        return True
    sums = sum(8 * (site.features + 1) ** 2 for site in dense)
    activations = dense.numbers_per_token * dense.model.dtype.itemsize * max(map(padded_tokens, batches))
    fit = sums + activations <= SHARE_OF_MEMORY * available_bytes(dense.device)
    return fit and not is_offloaded(dense.model)


def _together(calibration: Calibration, of: Callable[[Site], bool], text: str) -> Iterator[Group]:
    dense, adding = calibration.dense, _Adding(calibration)
    found = _empty(calibration, list(filter(of, dense.occupied)))
    for number, batch in enumerate(calibration.progress(adding.batches, text)):
        with adding.to(found, number):
            _loss(calibration, batch, dense.model(**batch)).backward()
    yield _of_all(found)


def _downwards(calibration: Calibration, of: Callable[[Site], bool]) -> Iterator[Group]:
    dense, adding = calibration.dense, _Adding(calibration)
    boundary, entering = Boundary(dense, adding.batches), []
    last = len(dense.blocks()) - 1
    for block in calibration.progress(range(last + 1), "running blocks"):
        entering.append(boundary.hidden.copy())
        if block < last:
            with dense.in_memory(boundary.sites[0]):
                boundary.advance()
    above: list[Tensor] = []
    for block in calibration.progress(range(last, -1, -1), "curves, top-down"):
        boundary.stand_at(block, [hidden.requires_grad_() for hidden in entering.pop()])
        found = _empty(calibration, [site for site in boundary.sites if site.units and of(site)])
        with dense.in_memory(boundary.sites[0]):
            for index, batch in enumerate(adding.batches):
                with adding.to(found, index):
                    if block == last:
                        _loss(calibration, batch, boundary.tail(index)).backward()
                    else:
                        boundary.block_output(index).backward(above[index])
        above = [hidden.grad for hidden in boundary.hidden]  # type: ignore[misc]  # each has one
        yield _of_all(found)


def _upwards(calibration: Calibration) -> Iterator[Group]:
    dense, own = calibration.dense, calibration.share(calibration.batches)
    boundary = Boundary(dense, own)
    firsts = [site for before, site in pairwise((None, *dense.sites)) if before is None or before.last_in_block]
    for first in calibration.progress(firsts, "curves, bottom-up"):
        if first.chain != boundary.chain:
            boundary = Boundary(dense, own, first.chain)
        found = _empty(calibration, [site for site in boundary.sites if site.units])
        with dense.in_memory(first):
            outputs = {}
            for index in range(len(boundary.batches)):
                inputs, outputs[index] = boundary.consumed(index)
                for name, hidden in inputs.items():
                    found[name].inputs.add_inputs(hidden.float())
            boundary.advance(outputs)
        yield _of_all(found)


def _loss(calibration: Calibration, batch: Batch, output: Any) -> Tensor:
    predicted = predictions(output, batch, calibration.dense.model)
    return fisher_loss(predicted, batch, calibration.seed).sum()


def _of_all(found: Group) -> Group:
    """Add up the moments of a group over all processes, in place."""
    for seen in found.values():
        processes.add_up(seen.inputs.products, seen.gradients, seen.energy, seen.scores)
    return found


class _Adding:
    """This process's batches, and where each one's tokens are among all calibration tokens of a chain."""

    def __init__(self, calibration: Calibration) -> None:
        self.dense = calibration.dense
        self.batches = calibration.share(calibration.batches)
        self.places = [
            calibration.share(calibration.by_batch(torch.arange(sum(tokens), device=self.dense.device), chain))
            for chain, tokens in enumerate(calibration.tokens_by_batch)
        ]

    @contextmanager
    def to(self, found: Group, number: int) -> Iterator[None]:
        """Within the context, a forward and a backward pass over a batch add to the moments of a group's sites."""

        def real(site: Site, values: Tensor) -> Tensor:
            return self.dense.unpadded(values, self.batches[number], site.chain).float()

        def see_input(site: Site, hidden: Tensor) -> None:
            found[site.name].inputs.add_inputs(real(site, hidden))

        def see_gradient(site: Site, gradient: Tensor) -> None:
            rows, here = real(site, gradient), found[site.name]
            here.gradients += rows.T @ rows
            here.energy[self.places[site.chain][number]] += rows.square().sum(1)

        def see_queries(site: Site, queries: Tensor, gradient: Tensor) -> None:
            found[site.name].scores += (queries * gradient).sum(1).square().sum(0)

        sites = [each.site for each in found.values()]
        seen = watching(self.dense, sites, inputs=see_input, output_gradients=see_gradient)
        asked = watching_queries(self.dense, sites, see_queries)
        with torch.enable_grad(), seen, asked:
            yield


def _empty(calibration: Calibration, sites: list[Site]) -> Group:
    device = calibration.dense.device
    return {
        site.name: Moments(
            site,
            RegressionSums(site.features, 0, device, processes.agreed),
            torch.zeros(site.width, site.width, dtype=torch.float64, device=device),
            torch.zeros(sum(calibration.tokens_by_batch[site.chain]), device=device),
            torch.zeros(site.units if site.head_width else 0, dtype=torch.float64, device=device),
        )
        for site in sites
    }
