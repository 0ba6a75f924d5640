"""What a method works on: the dense model, the student, the calibration batches and the limit; and the refit walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from trimformer.batching import token_count
from trimformer.boundary import Boundary
from trimformer.calibration import check_finite
from trimformer.interfaces import Batch, CostTables, Masks, Progress
from trimformer.reconstruction import Refit, RegressionSums, solve
from trimformer.sites import Site
from trimformer.structure import Structure
from trimformer.surgery import cut_site, write_consumer

SMALLEST_ALIGNING_RIDGE = 1e-6


@dataclass(frozen=True)
class Calibration:
    """What statistics are collected from. `dense` is the model as it was given and is never changed."""

    dense: Structure
    batches: list[Batch]
    seed: int
    progress: Progress
    labels: list[Batch] | None = field(default=None, kw_only=True)
    """Of the rows of each batch, for a method that needs them; None for all others."""

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
    cost together; `costs[site][k]` is the cost of keeping `k` units of a site.
    """

    student: Structure
    costs: CostTables
    limit: float
    stock: bool = field(default=False, kw_only=True)
    """The student stays one of its own class: no output projection gets a bias that it does not have."""
    uncapped: CostTables | None = field(default=None, kw_only=True)
    """What units cost, where `costs` is what they cost within the sizes that all layers share."""

    def unit_cost(self, site: Site) -> float:
        """Mean cost of a unit of the site; 1 where there is none, so that scores can be divided by it."""
        return float(self.costs[site.name][-1]) / site.units if site.units else 1.0


class Walk:
    """Dense model and student bottom-up in step. At every site: `align`, `cut`, `regression`, `solve`; then `leave`.

    Memory: that of both boundaries, and from `align` to `regression` as much again for the targets.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.dense = Boundary(job.dense, job.batches)
        self.student = Boundary(job.student, job.batches)
        self.dense.settle()
        self._targets: dict[int, Tensor] = {}

    def cut(self, site: Site, mask: Tensor) -> None:
        """Remove units of the student's site."""
        cut_site(self.job.student, site, mask)

    @torch.no_grad()
    def align(self, site: Site, *, ridge: float, intercept: bool) -> None:
        """Let the student's producers read, as nearly as a linear map can tell it, what the dense model's read.

        The map, from what enters the student's sublayer to what enters the dense one, is a ridge regression towards
        the identity; it is folded into the producers' weights. The residual stream itself stays as it is. Some ridge
        there always is: what a norm puts out is linearly dependent.
        """
        if site == self.job.student.sites[0]:
            return
        width = self.job.student.width
        sums = RegressionSums(width, width, self.job.student.model.device)
        for index in range(len(self.job.batches)):
            read, self._targets[index] = self.dense.across(index, site)
            sums.add(self.student.entering(index, site).float(), read.float())
        check_finite(sums.products, site.name)
        identity = torch.eye(width, device=sums.products.device)
        fit = solve(
            sums, identity, identity.new_zeros(width), site=site.name,
            ridge=self._raised(max(ridge, SMALLEST_ALIGNING_RIDGE), sums),
            intercept=intercept and all(producer.bias for producer in site.producers),
        )  # fmt: skip
        weights, biases = self.job.student.producer_weights(site), self.job.student.producer_biases(site)
        if len(biases) == len(weights):
            for weight, bias in zip(weights, biases, strict=True):
                bias.add_((fit.bias @ weight.double()).to(bias))
        for weight in weights:
            weight.copy_(fit.weight @ weight.double())

    @torch.no_grad()
    def regression(self, site: Site, weights: Sequence[Tensor] | None = None) -> RegressionSums:
        """Sums to re-solve the student's consumer from, so that its residual stream is the dense model's.

        Args:
            site: the one the walk stands at; as much of it enters as is not yet cut.
            weights: how much each token counts, `(tokens,)` by batch; None counts all alike.
        """
        weight = self.job.student.consumer_weight(site)
        features, width = weight.shape
        sums = RegressionSums(features, width, weight.device)
        for index in range(len(self.job.batches)):
            residual, inputs = self.student.before(index, site)
            if index not in self._targets:
                _, self._targets[index] = self.dense.across(index, site)
            target = self._targets.pop(index) - residual.float()
            sums.add(inputs.float(), target, None if weights is None else weights[index])
        check_finite(sums.products, site.name)
        return sums

    def solution(self, site: Site, sums: RegressionSums, *, ridge: float, intercept: bool) -> Refit:
        """The least-squares solution near the student's present weights; nothing is written.

        With fewer tokens than features the ridge is raised in proportion.
        """
        weight, bias = self.job.student.consumer_weight(site), self.job.student.consumer_bias(site)
        fixed = weight.new_zeros(weight.shape[1]) if bias is None else bias
        intercept = intercept and not (self.job.stock and bias is None)
        return solve(sums, weight, fixed, ridge=self._raised(ridge, sums), intercept=intercept, site=site.name)

    def _raised(self, ridge: float, sums: RegressionSums) -> float:
        return ridge * max(1.0, sums.features / self.job.tokens)

    def solve(self, site: Site, sums: RegressionSums, *, ridge: float, intercept: bool) -> None:
        """Write the solution of a regression into the student's consumer."""
        refit = self.solution(site, sums, ridge=ridge, intercept=intercept)
        keeps_bias = not intercept or (self.job.stock and self.job.student.consumer_bias(site) is None)
        write_consumer(self.job.student, site, refit.weight, None if keeps_bias else refit.bias)

    def leave(self, site: Site) -> None:
        """Go on to the next site."""
        if site.kind == "head":
            self.student.settle()
            return
        self.dense.advance()
        self.student.advance()
        self.dense.settle()


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
