"""Random: keep units at random. The baseline that every method must beat.

Needs no labels and no gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from trimformer.calibration import frozen
from trimformer.errors import require_range
from trimformer.interfaces import Masks, Measured
from trimformer.job import Calibration, Job, cut_and_refit
from trimformer.search import keep_best


@dataclass(frozen=True, kw_only=True)
class Random:
    """Options."""

    measured_by: ClassVar[tuple[str, ...]] = ()

    tune: bool = False
    """Refit the output projections afterwards."""
    ridge: float = 1e-2
    """Of the refit: pull towards the dense weights, relative to the mean diagonal of the Gram matrix."""
    intercept: bool = True
    """Of the refit: also re-solve the bias."""

    def __post_init__(self) -> None:
        require_range("ridge", self.ridge)

    def measure(self, calibration: Calibration) -> Measured:
        """Nothing is measured."""
        return {}

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Uniform random scores, the same for the same seed."""
        generator = torch.Generator().manual_seed(job.seed)
        scores = {site.name: torch.rand(site.units, generator=generator) for site in job.dense}
        masks = keep_best(scores, job.unit_costs, job.limit)
        with frozen(job.dense.model), frozen(job.student.model):
            cut_and_refit(job, masks, tune=self.tune, ridge=self.ridge, intercept=self.intercept)
        return masks


PROVIDES = {"random": Random}
