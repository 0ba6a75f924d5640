"""KCM: kernelised convex masking. Keeps the neurons that stand for the others and are active; all heads stay.

How well a neuron stands for the others of its sublayer is read off the output weights (R2), how active it is off
unlabelled data (D2); their product is its score. The kept neurons are scaled as in mask-tuning.

Needs no labels, and no gradients below the last sublayer. One forward pass, and a walk through dense model and student;
memory units² for one site, and units³ operations for each iteration of R2.

Source: Nova, Dai, Schuurmans: Gradient-Free Structured Pruning with Unlabeled Data (ICML 2023), arXiv 2303.04185.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trimformer.errors import UnreachableTarget, require_range
from trimformer.model.sites import Masks, Site
from trimformer.observing.calibration import Calibration, Seen, Sums
from trimformer.observing.measurements import Measured, Measurement
from trimformer.pruning.choose.scoring import LOOSEST_TOLERANCE, convex_representation
from trimformer.pruning.choose.search import ROUNDING, keep_best
from trimformer.pruning.contract import Backward, Effort, Job
from trimformer.pruning.refit.rescaling import cut_and_rescale, teacher_job

SILENT = 1e-30
"""Least mean activity to divide by: where no neuron of a sublayer is ever active, its scores are zero, not NaN."""


@dataclass(frozen=True, kw_only=True)
class Scored(Measurement):
    """Scores of the neurons of one site."""

    score: Tensor
    """R2 · D2, `(units,)`; higher = keep."""


@dataclass(frozen=True, kw_only=True)
class KCM:
    """Options of KCM."""

    measured_by: ClassVar[tuple[str, ...]] = ("sigma", "tolerance")
    measurement: ClassVar[type[Measurement] | None] = Scored
    needs_labels: ClassVar[bool] = False
    removes: ClassVar[str | None] = "neuron"
    backward: ClassVar[Backward] = "none"
    effort: ClassVar[Effort] = Effort(measuring=3.0, pruning=4.0)

    sigma: float = 1.0
    """Width of the Gaussian kernel between output weights of length 1; above 0."""
    tolerance: float = 0.01
    """R2 is iterated until it changes by less than this share; above 0 and at most 0.05."""
    tune: bool = True
    """Rescale the kept units."""
    damping: float = 0.1
    """Of the rescaling: pull of the scales towards 1, relative to the mean diagonal of their system; at least 0."""

    def __post_init__(self) -> None:
        require_range("sigma", self.sigma, low_included=False)
        require_range("tolerance", self.tolerance, high=LOOSEST_TOLERANCE, low_included=False)
        require_range("damping", self.damping)

    def measure(self, calibration: Calibration) -> dict[str, Scored]:
        """Score the neurons of every site: R2 · D2."""
        dense = calibration.dense
        sites = [site for site in dense if site.kind == "neuron" and site.units]

        def add(sums: Sums, seen: Seen) -> None:
            sums["activity"] += seen.rows.float().abs().sum(0).double().cpu()

        active = calibration.collect(
            sites,
            lambda site: {"activity": torch.zeros(site.units, dtype=torch.float64)},
            inputs=add,
            description="measuring activity",
        )

        def scored(site: Site) -> Scored:
            activity, weights = active[site.name]["activity"], dense.unit_weights(site)[:, 0].float()
            representative = convex_representation(weights, self.sigma, self.tolerance).double().cpu()
            return Scored(score=representative * (activity / activity.mean().clamp(min=SILENT)))

        return calibration.by_site(sites, Scored, scored, "representing neurons")

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Keep all heads and the best neurons, cut, and with `tune` rescale."""
        masks = _searched(job, measured)
        teacher = _searched(teacher_job(job), measured) if self.tune else None
        cut_and_rescale(job, masks, teacher, damping=self.damping)
        return masks


def _searched(job: Job, measured: Measured) -> Masks:
    """Keep all heads, and neurons by score as far as the limit allows.

    Raises:
        UnreachableTarget: the heads alone cost more; names the smallest share that can be kept.
    """
    stays = {site.name for site in job.dense if site.kind != "neuron"}
    least = sum(float(job.costs[name][-1]) for name in stays)
    if least > job.limit * (1 + ROUNDING):
        total = sum(float(table[-1]) for table in job.costs.values())
        raise UnreachableTarget(
            f"kcm keeps all heads, which are {least / total:.3f} of the cost of all units, but {job.limit / total:.3f} "
            "of it was asked for: ask for more, or use a method that removes heads"
        )
    neurons = {site.name: job.costs[site.name] for site in job.dense if site.name not in stays}
    scores = {name: measured[name].score if name in measured else torch.zeros(0) for name in neurons}
    return job.dense.full_masks() | keep_best(scores, neurons, job.limit - least, job.bounds)


PROVIDES = {"kcm": KCM}
