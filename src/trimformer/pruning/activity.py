"""What output projections read, as means and variances: for baselines that score units by weights and activity."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trimformer.model.sites import Scores, Site
from trimformer.observing.calibration import Calibration, Seen, Sums
from trimformer.observing.measurements import Measured, Measurement
from trimformer.pruning.baseline import Baseline
from trimformer.pruning.contract import Effort, Job
from trimformer.pruning.parameters import FIXED_TOKENS

PASSES = 1.3
"""Forward passes of the calibration tokens that measuring takes, as measured on MiniLM."""


@dataclass(frozen=True, kw_only=True)
class Activity(Measurement):
    """Mean and variance, over tokens, of every feature that a site's consumer reads, those of each unit together."""

    mean: Tensor
    """`(features,)`, float64."""
    variance: Tensor
    """`(features,)`, float64; as of a sample, over one token less than there are."""

    @property
    def root_mean_square(self) -> Tensor:
        """Root of the mean square of every feature, `(features,)`; exact but for the one token."""
        return (self.variance + self.mean.square()).sqrt()


@dataclass(frozen=True, kw_only=True)
class ActivityBaseline(Baseline):
    """A baseline whose score of a unit is a sum over its features, of output weights and activity."""

    measurement: ClassVar[type[Measurement] | None] = Activity

    @property
    def effort(self) -> Effort:
        """One forward pass, and a refit where it is asked for."""
        return Effort(measuring=PASSES, pruning=3.0 if self.tune else 0.0, most_tokens=FIXED_TOKENS)

    def measure(self, calibration: Calibration) -> dict[str, Activity]:
        """Measure mean and variance of what every consumer reads."""
        sites = calibration.dense.occupied

        def zeros(site: Site) -> Sums:
            return {name: torch.zeros(site.features, dtype=torch.float64) for name in ("sum", "squares")}

        def add(sums: Sums, seen: Seen) -> None:
            rows = seen.rows.double()
            sums["sum"] += rows.sum(0).cpu()
            sums["squares"] += rows.square().sum(0).cpu()

        found = calibration.collect(sites, zeros, inputs=add, description="measuring activity")

        def activity(site: Site) -> Activity:
            sums, tokens = found[site.name], sum(calibration.tokens_by_batch[site.chain]) * site.passes
            mean = sums["sum"] / tokens
            spread = (sums["squares"] - tokens * mean.square()).clamp(min=0)
            return Activity(mean=mean, variance=spread / max(tokens - 1, 1))

        return {site.name: activity(site) for site in sites}

    @abstractmethod
    def importance(self, activity: Activity, weights: Tensor) -> Tensor:
        """Compute the importance of every feature: `(features,)`.

        Args:
            activity: of the consumer's input.
            weights: of the consumer, `(features, width)`, float64.
        """

    def by_feature(self, job: Job, measured: Measured) -> Scores:
        """Compute the importance of every feature of every site that has units."""
        sites = job.dense.occupied
        weights = {site.name: job.dense.unit_weights(site).double().flatten(0, 1).cpu() for site in sites}
        return {name: self.importance(measured[name], each) for name, each in weights.items()}

    def worth(self, job: Job, measured: Measured) -> Scores:
        """Add up the importance of every unit's features."""
        found = self.by_feature(job, measured)
        return {site.name: found[site.name].reshape(site.units, -1).sum(1) for site in job.dense.occupied}
