"""Magnitude: keep the units with the largest output weights. The baseline that looks at no data.

Needs no labels and no gradients. A unit's score is the squared norm of its rows of the output projection per cost.
Source: the classic criterion, as structured pruning of Transformers has used it since Michel et al. (arXiv 1905.10650).
"""

from __future__ import annotations

from dataclasses import dataclass

from trimformer.model.sites import Scores
from trimformer.observing.measurements import Measured
from trimformer.pruning.baseline import Baseline
from trimformer.pruning.contract import Job


@dataclass(frozen=True, kw_only=True)
class Magnitude(Baseline):
    """Magnitude, with the options of every baseline."""

    def scores(self, job: Job, measured: Measured) -> Scores:
        """Score units by the squared norm of their output weights per cost."""
        return {
            site.name: job.dense.unit_weights(site).double().square().sum((1, 2)) / job.unit_cost(site)
            for site in job.dense
        }


PROVIDES = {"magnitude": Magnitude}
