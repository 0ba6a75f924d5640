"""Magnitude: keep the units with the largest output weights. The baseline that looks at no data.

Needs no labels and no gradients. A unit's score is the squared norm of its rows of the output projection per cost.
Source: the classic criterion, as structured pruning of Transformers has used it since Michel et al. (arXiv 1905.10650).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trimformer.calibration import frozen
from trimformer.errors import require_range
from trimformer.interfaces import Masks, Measured
from trimformer.job import Calibration, Job, cut_and_refit
from trimformer.search import keep_best


@dataclass(frozen=True, kw_only=True)
class Magnitude:
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
        """Score by squared norm per cost, keep the best, cut."""
        scores = {
            site.name: job.dense.unit_weights(site).double().square().sum((1, 2)) / job.unit_costs.get(site.name, 1.0)
            for site in job.dense
        }
        masks = keep_best(scores, job.unit_costs, job.limit)
        with frozen(job.dense.model), frozen(job.student.model):
            cut_and_refit(job, masks, tune=self.tune, ridge=self.ridge, intercept=self.intercept)
        return masks


PROVIDES = {"magnitude": Magnitude}
