"""The walk from the bottom up: dense model and student side by side, sublayer by sublayer, cut and refitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from trimformer import processes
from trimformer.model.sites import Masks, Site
from trimformer.model.surgery import cut_site, write_consumer
from trimformer.observing.boundary import Boundary
from trimformer.observing.sums import RegressionSums
from trimformer.observing.watching import check_finite
from trimformer.pruning.contract import Job
from trimformer.pruning.refit.least_squares import Refit, solve

Step = TypeVar("Step", bound=Callable[..., Any])


SMALLEST_ALIGNING_RIDGE = 1e-6


def _in_memory(step: Step) -> Step:
    """A step of a walk with the weights of its site's block in memory, the dense model's and the student's."""

    @wraps(step)
    def held(walk: Walk, site: Site, *args: Any, **kwargs: Any) -> Any:
        with walk.job.dense.in_memory(site.block), walk.job.student.in_memory(site.block):
            return step(walk, site, *args, **kwargs)

    return cast("Step", held)


class Walk:
    """Dense model and student bottom-up in step. At every site: `align`, `cut`, `regression`, `solve`; then `leave`.

    Several processes share the batches; students stay the same to the last bit, as the first process has them.
    Memory: that of both boundaries, and from `align` to `regression` as much again for the targets.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.batches = job.share(job.batches)
        self.dense = Boundary(job.dense, self.batches)
        self.student = Boundary(job.student, self.batches)
        self.dense.settle()
        self._targets: dict[int, Tensor] = {}

    def cut(self, site: Site, mask: Tensor) -> Tensor:
        """Remove units of the student's site; the mask by which it was done, that of the first process."""
        chosen = processes.agreed(mask)
        cut_site(self.job.student, site, chosen)
        return chosen

    @_in_memory
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
        sums = RegressionSums(width, width, self.job.student.device, processes.agreed)
        for index in range(len(self.batches)):
            read, self._targets[index] = self.dense.across(index, site)
            sums.add(self.student.entering(index, site).float(), read.float())
        processes.add_up(sums.products)
        check_finite(sums.products, site.name)
        identity = torch.eye(width, device=sums.products.device)
        fit = _solve(
            sums,
            identity,
            identity.new_zeros(width),
            site=site.name,
            ridge=self._raised(max(ridge, SMALLEST_ALIGNING_RIDGE), sums),
            intercept=intercept and all(producer.bias for producer in site.producers),
        )
        weights, biases = self.job.student.producer_weights(site), self.job.student.producer_biases(site)
        if len(biases) == len(weights):
            for weight, bias in zip(weights, biases, strict=True):
                bias.add_((fit.bias @ weight.double()).to(bias))
        for weight in weights:
            weight.copy_(fit.weight @ weight.double())

    @_in_memory
    @torch.no_grad()
    def regression(self, site: Site, weights: Sequence[Tensor] | None = None) -> RegressionSums:
        """Sums to re-solve the student's consumer from, so that its residual stream is the dense model's.

        Args:
            site: the one the walk stands at; as much of it enters as is not yet cut.
            weights: how much each token counts, `(tokens,)` by batch of this walk; None counts all alike.
        """
        weight = self.job.student.consumer_weight(site)
        features, width = weight.shape
        sums = RegressionSums(features, width, weight.device, processes.agreed)
        for index in range(len(self.batches)):
            residual, inputs = self.student.before(index, site)
            if index not in self._targets:
                _, self._targets[index] = self.dense.across(index, site)
            target = self._targets.pop(index) - residual.float()
            sums.add(inputs.float(), target, None if weights is None else weights[index])
        processes.add_up(sums.products)
        check_finite(sums.products, site.name)
        return sums

    @_in_memory
    def solution(self, site: Site, sums: RegressionSums, *, ridge: float, intercept: bool) -> Refit:
        """The least-squares solution near the student's present weights; nothing is written.

        With fewer tokens than features the ridge is raised in proportion.
        """
        weight, bias = self.job.student.consumer_weight(site), self.job.student.consumer_bias(site)
        fixed = weight.new_zeros(weight.shape[1]) if bias is None else bias
        intercept = intercept and not (self.job.stock and bias is None)
        return _solve(sums, weight, fixed, ridge=self._raised(ridge, sums), intercept=intercept, site=site.name)

    def _raised(self, ridge: float, sums: RegressionSums) -> float:
        return ridge * max(1.0, sums.features / self.job.tokens)

    @_in_memory
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
            cut_site(job.student, site, processes.agreed(masks[site.name]))
        return
    walk = Walk(job)
    for site in job.progress(job.student.sites, "refitting"):
        walk.cut(site, masks[site.name])
        walk.solve(site, walk.regression(site), ridge=ridge, intercept=intercept)
        walk.leave(site)


def _solve(sums: RegressionSums, prior: Tensor, bias: Tensor, *, ridge: float, intercept: bool, site: str) -> Refit:
    """The solution as the first process has it: libraries may round the same sums differently elsewhere."""
    own = solve(sums, prior, bias, ridge=ridge, intercept=intercept, site=site)
    return Refit(processes.agreed(own.weight), processes.agreed(own.bias))
