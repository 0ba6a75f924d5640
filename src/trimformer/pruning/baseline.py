"""Base of the methods that score all units once, keep the best within the budget, and cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from trimformer.errors import require_range
from trimformer.model.sites import Masks, Scores
from trimformer.observing.calibration import Calibration
from trimformer.observing.measurements import Measured, Measurement
from trimformer.observing.watching import frozen
from trimformer.pruning.choose.search import keep_best
from trimformer.pruning.contract import Backward, Effort, Job
from trimformer.pruning.parameters import FIXED_TOKENS
from trimformer.pruning.refit.walk import cut_and_refit


@dataclass(frozen=True, kw_only=True)
class Baseline(ABC):
    """A method that scores all units once: its options, and everything but the scores."""

    measured_by: ClassVar[tuple[str, ...]] = ()
    measurement: ClassVar[type[Measurement] | None] = None
    needs_labels: ClassVar[bool] = False
    removes: ClassVar[str | None] = None
    backward: ClassVar[Backward] = "none"

    tune: bool = False
    """Refit the output projections afterwards."""
    ridge: float = 1e-2
    """Of the refit: pull towards the dense weights, relative to the mean diagonal of the Gram matrix; at least 0."""
    intercept: bool = True
    """Of the refit: also re-solve the bias."""

    def __post_init__(self) -> None:
        require_range("ridge", self.ridge)

    @property
    def effort(self) -> Effort:
        """None without a refit, where no row is read."""
        return Effort(pruning=3.0) if self.tune else Effort(most_tokens=FIXED_TOKENS)

    @abstractmethod
    def scores(self, job: Job, measured: Measured) -> Scores:
        """Score every unit of the dense model, by what was measured where anything was; higher = keep."""

    def measure(self, calibration: Calibration) -> Measured:
        """Measure nothing before a budget is known."""
        return {}

    def worth(self, job: Job, measured: Measured) -> Scores:
        """Give the scores, not per cost."""
        scores = self.scores(job, measured)
        return {site.name: scores[site.name] * job.unit_cost(site) for site in job.dense}

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Score all units, keep the best within the limit, cut the student and, with `tune`, refit it."""
        best = keep_best(self.scores(job, measured), job.costs, job.limit, job.bounds)
        masks = job.first_decides(job.dense.full_masks() | best)
        with frozen(job.dense.model), frozen(job.student.model):
            cut_and_refit(job, masks, tune=self.tune, ridge=self.ridge, intercept=self.intercept)
        return masks
