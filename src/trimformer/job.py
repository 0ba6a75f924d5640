"""What a method works on: the dense model, the student, the calibration batches and the limit; and the refit walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trimformer.batching import token_count
from trimformer.boundary import Boundary
from trimformer.calibration import check_finite
from trimformer.interfaces import Batch, Masks, Progress, Site
from trimformer.reconstruction import Refit, RegressionSums, solve
from trimformer.structure import Structure
from trimformer.surgery import cut_site


@dataclass(frozen=True)
class Calibration:
    """What statistics are collected from. `dense` is the model as it was given and is never changed."""

    dense: Structure
    batches: list[Batch]
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

    @property
    def mean_length(self) -> float:
        """Mean number of tokens of a sequence, `T̄`."""
        return self.tokens / self.sequences


@dataclass(frozen=True)
class Job(Calibration):
    """One pruning task, with everything decided but the masks.

    `student` starts as a copy of the dense model; the method cuts and tunes it. `limit` is what the kept units may
    cost, in the unit of `unit_costs`.
    """

    student: Structure
    unit_costs: dict[str, float]
    limit: float


class Walk:
    """Dense model and student bottom-up in step. At every site: `cut`, `regression`, `write`, in any order; `leave`."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.dense = Boundary(job.dense, job.batches)
        self.student = Boundary(job.student, job.batches)

    def cut(self, site: Site, mask: Tensor) -> None:
        """Remove units of the student's site."""
        cut_site(self.job.student, site, mask)

    @torch.no_grad()
    def regression(self, site: Site, weights: Sequence[Tensor] | None = None) -> RegressionSums:
        """Sums to re-solve the student's consumer from, so that its residual stream is the dense model's.

        Args:
            site: the one the walk stands at; as much of it enters as is not yet cut.
            weights: how much each token counts, `(tokens,)` by batch; None counts all alike.
        """
        consumer = self.job.student.consumer(site)
        sums = RegressionSums(consumer.in_features, consumer.out_features, consumer.weight.device)
        for index in range(len(self.job.batches)):
            residual, inputs = self.student.before(index, site)
            target = self.dense.after(index, site) - residual.float()
            sums.add(inputs.float(), target, None if weights is None else weights[index])
        check_finite(sums.products, site.name)
        return sums

    def solution(self, site: Site, sums: RegressionSums, *, ridge: float, intercept: bool) -> Refit:
        """The least-squares solution near the student's present weights; nothing is written.

        With fewer tokens than features the ridge is raised in proportion.
        """
        consumer = self.job.student.consumer(site)
        raised = ridge * max(1.0, sums.features / self.job.tokens)
        return solve(sums, consumer.weight.T, consumer.bias, ridge=raised, intercept=intercept, site=site.name)

    def solve(self, site: Site, sums: RegressionSums, *, ridge: float, intercept: bool) -> None:
        """Write the solution of a regression into the student's consumer."""
        consumer = self.job.student.consumer(site)
        refit = self.solution(site, sums, ridge=ridge, intercept=intercept)
        with torch.no_grad():
            consumer.weight.copy_(refit.weight.T)
            consumer.bias.copy_(refit.bias)

    def leave(self, site: Site) -> None:
        """Go on to the next site."""
        if site.kind == "neuron":
            self.dense.advance()
            self.student.advance()


def cut_and_refit(job: Job, masks: Masks, *, tune: bool, ridge: float, intercept: bool) -> None:
    """Cut the student to given masks, refitting every consumer from the bottom up where `tune` is set."""
    if not tune:
        for site in job.student:
            cut_site(job.student, site, masks[site.name])
        return
    walk = Walk(job)
    for site in job.progress(job.student.sites, "refitting"):
        walk.cut(site, masks[site.name])
        walk.solve(site, walk.regression(site), ridge=ridge, intercept=intercept)
        walk.leave(site)
