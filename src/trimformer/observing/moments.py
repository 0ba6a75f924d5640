"""What removal curves are made from: moments of what a sublayer's output projection reads, and of gradients above it.

Where memory allows, one forward and one backward pass of the whole model. Else block by block: up, keeping the hidden
states at every boundary, then down, where each block runs once more, forward and backward, so that no more than one
block's activations, weights and sums are needed at a time. Without gradients, up only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimformer import processes
from trimformer.data.rows import Batch
from trimformer.model.offload import is_offloaded
from trimformer.model.sites import Site
from trimformer.observing.boundary import Boundary
from trimformer.observing.calibration import Calibration
from trimformer.observing.predictions import fisher_loss, predictions
from trimformer.observing.resources import available_bytes
from trimformer.observing.sums import RegressionSums
from trimformer.observing.watching import watching

SHARE_OF_MEMORY = 0.25
"""Of what is available, that the sums of all sites and the activations of a pass may take together."""


@dataclass
class Moments:
    """Of one site: sums of its consumer's input, and where gradients are taken, of those at its output."""

    site: Site
    inputs: RegressionSums
    gradients: Tensor
    """Sum over tokens of `g gᵀ`, `(width, width)`, or zeros."""
    energy: Tensor
    """`‖g_t‖²` of every token, `(tokens,)`, or zeros."""


Group = dict[str, Moments]
"""By name, sites whose moments come at the same time: all, or those of one block."""


def moments(calibration: Calibration, *, gradients: bool) -> Iterator[Group]:
    """The moments of every site that has units; a group can be forgotten before the next is asked for.

    Several processes share the batches, and each gets the moments of all.

    Raises:
        UnsupportedModel: the model computes on several devices.
    """
    if not gradients:
        return _upwards(calibration)
    return _together(calibration) if _fit_together(calibration) else _downwards(calibration)


def _fit_together(calibration: Calibration) -> bool:
    dense, batches = calibration.dense, calibration.batches
    sums = sum(8 * (site.features + 1) ** 2 for site in dense)
    activations = dense.flow * dense.model.dtype.itemsize * max(batch["input_ids"].numel() for batch in batches)
    fit = sums + activations <= SHARE_OF_MEMORY * available_bytes(dense.device)
    return fit and not is_offloaded(dense.model)


def _together(calibration: Calibration) -> Iterator[Group]:
    dense = calibration.dense
    found = _empty(calibration, dense.occupied)
    for batch, places in calibration.progress(_own(calibration), "measuring curvature"):
        with _adding(calibration, found, batch, places):
            _loss(calibration, batch, dense.model(**batch)).backward()
    yield _of_all(found)


def _downwards(calibration: Calibration) -> Iterator[Group]:
    dense, own = calibration.dense, _own(calibration)
    boundary, entering = Boundary(dense, [batch for batch, _ in own]), []
    last = len(dense.blocks) - 1
    for block in calibration.progress(range(last + 1), "running blocks"):
        entering.append(boundary.hidden.copy())
        if block < last:
            with dense.in_memory(block):
                boundary.advance()
    above: list[Tensor] = []
    for block in calibration.progress(range(last, -1, -1), "curves, top-down"):
        boundary.stand_at(block, [hidden.requires_grad_() for hidden in entering.pop()])
        found = _empty(calibration, [site for site in dense.occupied if site.block == block])
        with dense.in_memory(block):
            for index, (batch, places) in enumerate(own):
                with _adding(calibration, found, batch, places):
                    if block == last:
                        _loss(calibration, batch, boundary.tail(index)).backward()
                    else:
                        boundary.block_output(index).backward(above[index])
        above = [hidden.grad for hidden in boundary.hidden]  # type: ignore[misc]  # each has one
        yield _of_all(found)


def _upwards(calibration: Calibration) -> Iterator[Group]:
    dense, own = calibration.dense, calibration.share(calibration.batches)
    boundary = Boundary(dense, own)
    for block in calibration.progress(range(len(dense.blocks)), "curves, bottom-up"):
        found = _empty(calibration, [site for site in dense.occupied if site.block == block])
        with dense.in_memory(block):
            for index in range(len(own)):
                for name, hidden in boundary.consumed(index).items():
                    found[name].inputs.add_inputs(hidden.float())
            boundary.advance()
        yield _of_all(found)


def _own(calibration: Calibration) -> list[tuple[Batch, Tensor]]:
    """This process's batches, and where their tokens are among all calibration tokens."""
    places = calibration.by_batch(torch.arange(calibration.tokens, device=calibration.dense.device))
    return calibration.share(list(zip(calibration.batches, places, strict=True)))


def _loss(calibration: Calibration, batch: Batch, output: Any) -> Tensor:
    predicted = predictions(output, batch, calibration.dense.model.config)
    return fisher_loss(predicted, batch, calibration.seed).sum()


def _of_all(found: Group) -> Group:
    """The sums of all processes."""
    for seen in found.values():
        processes.add_up(seen.inputs.products, seen.gradients, seen.energy)
    return found


@contextmanager
def _adding(calibration: Calibration, found: Group, batch: Batch, places: Tensor) -> Iterator[None]:
    """Within the context a forward and a backward pass over a batch add to the moments of the sites found in there."""
    rows = batch["attention_mask"].bool()

    def see_input(site: Site, hidden: Tensor) -> None:
        found[site.name].inputs.add_inputs(hidden[rows].float())

    def see_gradient(site: Site, gradient: Tensor) -> None:
        real, here = gradient[rows].float(), found[site.name]
        here.gradients += real.T @ real
        here.energy[places] = real.square().sum(1)

    sites = [each.site for each in found.values()]
    with torch.enable_grad(), watching(calibration.dense, sites, inputs=see_input, output_gradients=see_gradient):
        yield


def _empty(calibration: Calibration, sites: list[Site]) -> Group:
    width, device = calibration.dense.width, calibration.dense.device
    return {
        site.name: Moments(
            site,
            RegressionSums(site.features, 0, device, processes.agreed),
            torch.zeros(width, width, dtype=torch.float64, device=device),
            torch.zeros(calibration.tokens, device=device),
        )
        for site in sites
    }
