"""Random: keep units at random. The baseline that every method must beat.

Needs no labels and no gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimformer.model.sites import Scores
from trimformer.observing.measurements import Measured
from trimformer.pruning.baseline import Baseline
from trimformer.pruning.contract import Job


@dataclass(frozen=True, kw_only=True)
class Random(Baseline):
    """Random, with the options of every baseline."""

    def scores(self, job: Job, measured: Measured) -> Scores:
        """Score units by uniform random numbers, the same for the same seed."""
        generator = torch.Generator().manual_seed(job.seed)
        return {site.name: torch.rand(site.units, generator=generator) for site in job.dense}


PROVIDES = {"random": Random}
