"""FLAP: keep the units whose activations fluctuate most, and put the mean of what the others wrote into the bias.

Needs no labels and no gradients; one forward pass. A feature's importance is the variance of its activations times the
squared norm of its output weights: what is lost where a constant takes its place. It is standardised within every
sublayer, averaged over the features of a unit, and compared over all sublayers at once.

Source: An et al., Fluctuation-based Adaptive Structured Pruning (AAAI 2024), arXiv 2312.11983.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimformer.errors import InvalidOption
from trimformer.model.sites import Masks, Scores, Site
from trimformer.model.surgery import write_consumer
from trimformer.observing.measurements import Measured
from trimformer.pruning.activity import Activity, ActivityBaseline
from trimformer.pruning.contract import Job


@dataclass(frozen=True, kw_only=True)
class Flap(ActivityBaseline):
    """FLAP, with the options of every baseline."""

    compensate: bool = True
    """Add to each output projection's bias what the removed units wrote on average; a refit does it in any case."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tune and not self.compensate:
            raise InvalidOption("`tune=true` solves for the biases as well: leave out `compensate=false`")

    def importance(self, activity: Activity, weights: Tensor) -> Tensor:
        """Multiply the activation's variance by the squared norm of the output weights."""
        return activity.variance * weights.square().sum(1)

    def scores(self, job: Job, measured: Measured) -> Scores:
        """Score units by the mean of their features' importance, standardised within the sublayer."""
        found = self.by_feature(job, measured)
        return {
            site.name: _standardised(found[site.name]).reshape(site.units, -1).mean(1) for site in job.dense.occupied
        }

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Keep the best within the limit, cut, and compensate or refit."""
        masks = super().prune(job, measured)
        if self.compensate and not self.tune:
            for site in job.dense.occupied:
                with job.dense.in_memory(site), job.student.in_memory(site):
                    _compensate(job, site, masks[site.name], measured[site.name])
        return masks


def _standardised(importance: Tensor) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1; all 0 where nothing differs."""
    spread = importance.std() if importance.numel() > 1 else importance.new_zeros(())
    return (importance - importance.mean()) / torch.where(spread > 0, spread, 1.0)


@torch.no_grad()
def _compensate(job: Job, site: Site, mask: Tensor, activity: Activity) -> None:
    """Add to the bias of the student's consumer what the removed units of the dense one write on average."""
    bias = job.student.consumer_bias(site)
    if bool(mask.all()) or (job.stock and bias is None):
        return
    gone = ~mask.cpu().repeat_interleave(site.unit_width)
    weights = job.dense.unit_weights(site).double().flatten(0, 1).cpu()
    lost = activity.mean[gone] @ weights[gone]
    before = torch.zeros_like(lost) if bias is None else bias.double().cpu()
    write_consumer(job.student, site, job.student.consumer_weight(site), before + lost)


PROVIDES = {"flap": Flap}
