"""What a method works on: the dense model, the student, the calibration batches and the limit; and the refit walk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trimformer.batching import token_count
from trimformer.boundary import Boundary
from trimformer.calibration import check_finite
from trimformer.interfaces import Batch, Masks, Progress, Site
from trimformer.reconstruction import RegressionSums, solve
from trimformer.structure import Structure
from trimformer.surgery import cut_site


@dataclass(frozen=True)
class Job:
    """One pruning task, with everything decided but the masks.

    `dense` is the model as it was given and is never changed. `student` starts as its copy; the method cuts and tunes
    it. `limit` is what the kept units may cost, in the unit of `unit_costs`.
    """

    dense: Structure
    student: Structure
    batches: list[Batch]
    unit_costs: dict[str, float]
    limit: float
    seed: int
    progress: Progress

    @cached_property
    def tokens(self) -> int:
        """Calibration tokens, padding excluded."""
        return token_count(self.batches)

    @cached_property
    def sequences(self) -> int:
        """Calibration sequences."""
        return sum(len(batch["input_ids"]) for batch in self.batches)


class Walk:
    """Dense model and student bottom-up in step; every step cuts one site of the student and may refit it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.dense = Boundary(job.dense, job.batches)
        self.student = Boundary(job.student, job.batches)

    def step(self, site: Site, mask: Tensor, *, tune: bool, ridge: float = 0.0, intercept: bool = False) -> None:
        """Cut a site of the student to its mask; with `tune`, refit its consumer so that the student's residual stream

        after the sublayer is nearest to the dense model's. Sites must come in order.
        """
        cut_site(self.job.student, site, mask)
        if tune:
            self._refit(site, ridge=ridge, intercept=intercept)
        if site.kind == "neuron":
            self.dense.advance()
            self.student.advance()

    @torch.no_grad()
    def _refit(self, site: Site, *, ridge: float, intercept: bool) -> None:
        consumer = self.job.student.consumer(site)
        sums = RegressionSums(consumer.in_features, consumer.out_features, consumer.weight.device)
        for index in range(len(self.job.batches)):
            residual, inputs = self.student.before(index, site)
            sums.add(inputs.float(), (self.dense.after(index, site) - residual).float())
        check_finite(sums.products, site.name)
        refit = solve(sums, consumer.weight.T, consumer.bias, ridge=ridge, intercept=intercept, site=site.name)
        consumer.weight.copy_(refit.weight.T)
        consumer.bias.copy_(refit.bias)


def cut_and_refit(job: Job, masks: Masks, *, tune: bool, ridge: float, intercept: bool) -> None:
    """Cut the student to given masks, refitting every consumer from the bottom up where `tune` is set."""
    if not tune:
        for site in job.student:
            cut_site(job.student, site, masks[site.name])
        return
    walk = Walk(job)
    for site in job.progress(job.student.sites, "refitting"):
        walk.step(site, masks[site.name], tune=True, ridge=ridge, intercept=intercept)
