"""Wanda-sp: keep the units whose output weights times activations are largest, as large a share in every sublayer.

Needs no labels and no gradients; one forward pass. A feature's importance is the sum of its absolute output weights
times the root of the mean square of its activations; a unit's is the sum over its features.

Source: Sun et al., Wanda (arXiv 2306.11695), in the structured form of An et al., FLAP (arXiv 2312.11983).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trimformer.model.sites import Scores
from trimformer.observing.measurements import Measured
from trimformer.pruning.activity import Activity, ActivityBaseline
from trimformer.pruning.contract import Job


@dataclass(frozen=True, kw_only=True)
class WandaSp(ActivityBaseline):
    """Wanda-sp, with the options of every baseline."""

    def importance(self, activity: Activity, weights: Tensor) -> Tensor:
        """Multiply the sum of absolute output weights by the activation's root mean square."""
        return weights.abs().sum(1) * activity.root_mean_square

    def scores(self, job: Job, measured: Measured) -> Scores:
        """Score units by their place among those of their own sublayer, so that all sublayers lose as large a share."""
        return {name: _place(worth) for name, worth in self.worth(job, measured).items()}


def _place(worth: Tensor) -> Tensor:
    """Give every unit its place by rising worth, as a share: from just above 0 to just below 1."""
    return (worth.argsort(stable=True).argsort() + 0.5) / worth.numel()


PROVIDES = {"wanda_sp": WandaSp}
