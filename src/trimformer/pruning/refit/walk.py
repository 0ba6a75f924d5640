"""The walk from the bottom up: dense model and student side by side, sublayer by sublayer, cut and refitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from trimformer import processes
from trimformer.model.sites import Masks, Site
from trimformer.model.structure import features_first
from trimformer.model.surgery import cut_site, write_consumer
from trimformer.observing.boundary import Boundary, Crossing
from trimformer.observing.sums import RegressionSums
from trimformer.observing.watching import check_finite
from trimformer.pruning.contract import Job
from trimformer.pruning.journal import settle_again, settled_weights
from trimformer.pruning.refit.least_squares import Refit, solve

Step = TypeVar("Step", bound=Callable[..., Any])
SMALLEST_ALIGNING_RIDGE = 1e-6
"""Smallest ridge of `align`: a norm's outputs are linearly dependent, and without any no map can be solved for."""


class Walk:
    """Dense model and student bottom-up in step: iterating gives every site, with what can be done there.

    The walk goes on when the next site is asked for; then the student's sublayer is taken to stay as it is. Several
    processes share the batches; students stay the same to the last bit, as the first process has them.
    Memory: that of both boundaries, and after `align` as much again for the targets.

    Args:
        job: with a student of which nothing is cut yet.
        description: of the bar.

    As in `cut_and_refit`: `settled` is given a function that cuts, then solves, what a `Stop` stands at.
    """

    def __init__(self, job: Job, description: str) -> None:
        self.job = job
        self.description = description
        self.batches = job.share(job.batches)
        self.masks: Masks = {}
        """Masks of the sites that are settled so far."""
        self._enter(0)

    def __iter__(self) -> Iterator[Stop]:
        for site in self.job.progress(self.job.student.sites, self.description):
            if site.chain != self.student.chain:
                self._enter(site.chain)
            stop = Stop(self, site)
            yield stop
            self._leave(stop)

    def settled(self, settle: Callable[[Stop], Tensor]) -> Masks:
        """Go past every site, cut and refitted by a function that gives its mask; gives the masks of all.

        The mask is in units of the dense model. A site that the job's journal has is not settled but made what it was:
        what the function reads of others may only be the student's weights and `masks`.
        """
        kept = self.job.stage(self.description)
        for stop in self:
            site = stop.site
            found = kept.read(site.name) if kept else None
            if found is not None:
                self.masks[site.name] = settle_again(self.job.student, site, found)
                continue
            self.masks[site.name] = settle(stop)
            if kept:
                with self.job.student.in_memory(site):
                    kept.write(site.name, settled_weights(self.job.student, site, self.masks[site.name]))
        return self.masks

    def _enter(self, chain: int) -> None:
        """Stand at the first block of a chain, all of the dense model's sublayers settled."""
        self.dense = Boundary(self.job.dense, self.batches, chain)
        self.student = Boundary(self.job.student, self.batches, chain)
        self.student.hidden = list(self.dense.hidden)
        self.dense.settle(self.dense.sites)

    def _leave(self, stop: Stop) -> None:
        """Go past a site, and after the last of a block into the next block, if there is one."""
        if not stop.site.last_in_block:
            self.student.settle([stop.site])
            return
        known, blocks = stop.dense_outputs, len(self.job.dense.blocks(stop.site.chain))
        while self.dense.block + 1 < blocks:
            self.dense.advance(known)
            self.student.advance()
            self.dense.settle(self.dense.sites)
            if self.dense.sites:
                return
            known = {}


def _in_memory(step: Step) -> Step:
    """Make a step at a site run with the weights of its block in memory, the dense model's and the student's."""

    @wraps(step)
    def held(stop: Stop, *args: Any, **kwargs: Any) -> Any:
        with stop.walk.job.dense.in_memory(stop.site), stop.walk.job.student.in_memory(stop.site):
            return step(stop, *args, **kwargs)

    return cast("Step", held)


class Stop:
    """A site that a walk stands at: `align`, `cut`, `regression` and `solve` change or read the student there."""

    def __init__(self, walk: Walk, site: Site) -> None:
        self.walk = walk
        self.site = site
        self.dense_outputs: dict[int, Tensor] = {}
        """Outputs of the dense block by number of the batch, where they are known already."""
        self._leaving: dict[int, Tensor] = {}
        self._present = site
        """The site as the student has it; the same but for the width of heads."""

    @property
    def job(self) -> Job:
        """The job of the walk."""
        return self.walk.job

    def cut(self, mask: Tensor) -> Tensor:
        """Remove units of the student's site; returns the mask by which it was done, that of the first process."""
        chosen = processes.agreed(mask)
        cut_site(self.job.student, self._present, chosen)
        if self.site.head_width and self.site.units:
            width = int(self._present.by_head(chosen).sum(1).max())
            self._present = replace(self.site, units=int(chosen.sum()), head_width=max(1, width))
        return chosen

    @_in_memory
    @torch.no_grad()
    def align(self, *, ridge: float, intercept: bool) -> None:
        """Let the student's producers read, as nearly as a linear map can tell it, what the dense model's read.

        The map, from what enters the student's sublayer to what enters the dense one, is a ridge regression towards
        the identity; it is folded into the weights of what reads that input alone. The residual stream itself stays as
        it is.
        """
        student, site = self.job.student, self.site
        readers = student.readers(site)
        if site == student.sites[0] or not readers:
            return
        sums = RegressionSums(site.width, site.width, student.device, processes.agreed)
        for index in range(len(self.walk.dense.batches)):
            crossing = self._crossing(index)
            self._leaving[index] = crossing.leaving
            sums.add(self.walk.student.entering(index, site).float(), crossing.entering.float())
        processes.add_up(sums.products)
        check_finite(sums.products, site.name)
        identity = torch.eye(site.width, device=sums.products.device)
        fit = _solve(
            sums,
            identity,
            identity.new_zeros(site.width),
            site=site.name,
            ridge=self._raised(max(ridge, SMALLEST_ALIGNING_RIDGE), sums),
            intercept=intercept and all(reader.bias is not None for reader in readers),
        )
        for reader in readers:
            weight = features_first(reader)
            if reader.bias is not None:
                reader.bias.add_((fit.bias @ weight.double()).to(reader.bias))
            weight.copy_(fit.weight @ weight.double())

    @_in_memory
    @torch.no_grad()
    def regression(self, weights: Sequence[Tensor] | None = None) -> RegressionSums:
        """Sum up what the student's consumer is re-solved from, so that its residual stream is the dense model's.

        Behind a norm, which no linear map undoes, its output is to be the dense consumer's.

        Args:
            weights: how much each token counts, `(tokens,)` by batch of this walk; None counts all alike.
        """
        site, weight = self.site, self.job.student.consumer_weight(self.site)
        features, width = weight.shape
        sums = RegressionSums(features, width, weight.device, processes.agreed)
        for index in range(len(self.walk.dense.batches)):
            residual, inputs = self.walk.student.before(index, site)
            leaving = self._leaving[index] if index in self._leaving else self._crossing(index).leaving
            target = leaving if site.norm else leaving - residual.float()
            scaled = target if site.multiplier == 1 else target / site.multiplier
            sums.add(inputs.float(), scaled, None if weights is None else weights[index % len(weights)])
        processes.add_up(sums.products)
        check_finite(sums.products, site.name)
        return sums

    @_in_memory
    def solution(self, sums: RegressionSums, *, ridge: float, intercept: bool) -> Refit:
        """Compute the least-squares solution near the student's present weights; nothing is written.

        With fewer tokens than features the ridge is raised in proportion.
        """
        student, site = self.job.student, self.site
        weight, bias = student.consumer_weight(site), student.consumer_bias(site)
        fixed = weight.new_zeros(weight.shape[1]) if bias is None else bias
        intercept = intercept and not (self.job.stock and bias is None)
        return _solve(sums, weight, fixed, ridge=self._raised(ridge, sums), intercept=intercept, site=site.name)

    @_in_memory
    def solve(self, sums: RegressionSums, *, ridge: float, intercept: bool) -> None:
        """Write the solution of a regression into the student's consumer.

        Where no unit is left, the solution is a mean. Behind a norm it is left out: the norm would make it as large as
        all that the sublayer adds.
        """
        refit = self.solution(sums, ridge=ridge, intercept=intercept)
        keeps_bias = not intercept or (self.job.stock and self.job.student.consumer_bias(self.site) is None)
        bias = torch.zeros_like(refit.bias) if self.site.norm and not sums.features else refit.bias
        write_consumer(self.job.student, self.site, refit.weight, None if keeps_bias else bias)

    def _crossing(self, index: int) -> Crossing:
        """Run the dense model through its sublayer; what leaves its block is kept for when the walk goes on."""
        crossing = self.walk.dense.across(index, self.site)
        if crossing.block_output is not None:
            self.dense_outputs[index] = crossing.block_output
        return crossing

    def _raised(self, ridge: float, sums: RegressionSums) -> float:
        return ridge * max(1.0, sums.features / self.job.tokens)


def cut_and_refit(job: Job, masks: Masks, *, tune: bool, ridge: float, intercept: bool) -> None:
    """Cut the student to given masks, refitting every consumer from the bottom up where `tune` is set."""
    if not tune:
        for site in job.student:
            cut_site(job.student, site, processes.agreed(masks[site.name]))
        return

    def settle(stop: Stop) -> Tensor:
        mask = stop.cut(masks[stop.site.name])
        stop.solve(stop.regression(), ridge=ridge, intercept=intercept)
        return mask

    Walk(job, "refitting").settled(settle)


def _solve(sums: RegressionSums, prior: Tensor, bias: Tensor, *, ridge: float, intercept: bool, site: str) -> Refit:
    """Solve, and give the first process's solution: libraries may round the same sums differently elsewhere."""
    own = solve(sums, prior, bias, ridge=ridge, intercept=intercept, site=site)
    return Refit(processes.agreed(own.weight), processes.agreed(own.bias))
