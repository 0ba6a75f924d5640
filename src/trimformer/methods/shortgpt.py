"""ShortGPT: drop whole layers, those first that turn the residual stream least. What is left is less deep.

Needs no labels and no gradients; one forward pass. A layer's influence is one minus the mean cosine between the
residual stream that enters it and the one that leaves it, token by token.

Source: Men et al., ShortGPT: Layers in Large Language Models are More Redundant Than You Expect (arXiv 2403.03853).
Differs: as many layers go as the budget asks for, whatever it is counted in; a refit can follow.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor

from trimformer import processes
from trimformer.errors import UnreachableTarget
from trimformer.model.sites import Masks, Scores, Site
from trimformer.observing.boundary import Boundary
from trimformer.observing.calibration import Calibration
from trimformer.observing.measurements import Measured, Measurement
from trimformer.observing.watching import check_finite, frozen
from trimformer.pruning.baseline import Baseline
from trimformer.pruning.budget import total_cost
from trimformer.pruning.choose.search import ROUNDING
from trimformer.pruning.contract import LAYER, Effort, Job
from trimformer.pruning.parameters import FIXED_TOKENS
from trimformer.pruning.refit.walk import cut_and_refit


@dataclass(frozen=True, kw_only=True)
class Influence(Measurement):
    """Influence of the layer that a site is in."""

    influence: Tensor
    """One minus the mean cosine, `(1,)`, float64: 0 where the layer changes no direction, at most 2."""


@dataclass(frozen=True, kw_only=True)
class ShortGPT(Baseline):
    """ShortGPT, with the options of every baseline."""

    measurement: ClassVar[type[Measurement] | None] = Influence
    removes: ClassVar[str | None] = LAYER

    @property
    def effort(self) -> Effort:
        """One forward pass, and a refit where it is asked for."""
        return Effort(measuring=1.1, pruning=3.0 if self.tune else 0.0, most_tokens=FIXED_TOKENS)

    def measure(self, calibration: Calibration) -> dict[str, Influence]:
        """Measure the influence of every layer."""
        found: dict[str, Influence] = {}
        with frozen(calibration.dense.model):
            for chain, _ in enumerate(calibration.dense.architecture.chains):
                found |= _influences(calibration, chain)
        return found

    def scores(self, job: Job, measured: Measured) -> Scores:
        """Score every unit by its layer's influence, shared out among the layer's units."""
        return {
            site.name: (measured[site.name].influence / sum(each.units for each in sites)).expand(site.units)
            for sites in _layers(job)
            for site in sites
        }

    def worth(self, job: Job, measured: Measured) -> Scores:
        """Give every unit its share of the layer's influence."""
        return self.scores(job, measured)

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Drop layers by rising influence until the limit holds; cut and, with `tune`, refit what is left.

        Raises:
            UnreachableTarget: layers that are to stay cost more than the limit.
        """
        most = {site.name: job.bounds.of(site.name, site.units)[1] for site in job.dense}
        masks = {site.name: torch.full((site.units,), most[site.name] > 0) for site in job.dense}
        layers = sorted(_layers(job), key=lambda sites: float(measured[sites[0].name].influence))
        for sites in layers:
            if total_cost(masks, job.costs) <= job.limit * (1 + ROUNDING):
                break
            if all(job.bounds.of(site.name, site.units)[0] == 0 for site in sites):
                masks |= {site.name: torch.zeros(site.units, dtype=torch.bool) for site in sites}
        if total_cost(masks, job.costs) > job.limit * (1 + ROUNDING):
            raise UnreachableTarget(
                "shortgpt drops whole layers, and those of which something is to stay cost more than the budget: ask "
                "for more, let more layers go, or use a method that removes heads and neurons"
            )
        masks = job.first_decides(masks)
        with frozen(job.dense.model), frozen(job.student.model):
            cut_and_refit(job, masks, tune=self.tune, ridge=self.ridge, intercept=self.intercept)
        return masks


def _layers(job: Job) -> list[list[Site]]:
    """List the sites of every layer that has units."""
    by_layer = groupby(job.dense.occupied, key=lambda site: (site.chain, site.block))
    return [list(sites) for _, sites in by_layer]


@torch.no_grad()
def _influences(calibration: Calibration, chain: int) -> dict[str, Influence]:
    """Run a chain block by block, and compare what enters every block with what leaves it."""
    dense, blocks = calibration.dense, len(calibration.dense.blocks(chain))
    boundary = Boundary(dense, calibration.share(calibration.batches), chain)
    sums = torch.zeros(blocks, 2, dtype=torch.float64, device=dense.device)
    for block in calibration.progress(range(blocks), "measuring influence"):
        entering, sites = list(boundary.hidden), boundary.sites
        with dense.in_memory(sites[0]) if sites else nullcontext():
            boundary.advance()
        for batch, before, after in zip(boundary.batches, entering, boundary.hidden, strict=True):
            ends = [dense.unpadded(each, batch, chain).double() for each in (before, after)]
            cosines = torch.nn.functional.cosine_similarity(ends[0], ends[1], dim=-1)
            sums[block, 0] += cosines.sum()
            sums[block, 1] += len(cosines)
    processes.add_up(sums)
    found = 1 - sums[:, 0] / sums[:, 1]
    sites = [site for site in dense.occupied if site.chain == chain]
    for site in sites:
        check_finite(found[site.block], site.name)
    return {site.name: Influence(influence=found[site.block].reshape(1).cpu().clone()) for site in sites}


PROVIDES = {"shortgpt": ShortGPT}
