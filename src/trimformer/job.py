"""What a method works on: the dense model, the student, the calibration batches and the limit; and the refit walk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from trimformer import ranks
from trimformer.batching import token_count
from trimformer.boundary import Boundary
from trimformer.calibration import check_finite
from trimformer.interfaces import Batch, CostTables, Masks, Measured, Progress
from trimformer.reconstruction import Refit, RegressionSums, solve
from trimformer.sites import Site
from trimformer.structure import Structure
from trimformer.surgery import cut_site, write_consumer

Step = TypeVar("Step", bound=Callable[..., Any])
SMALLEST_ALIGNING_RIDGE = 1e-6
Part = TypeVar("Part")


@dataclass(frozen=True)
class Calibration:
    """What statistics are collected from. `dense` is the model as it was given and is never changed.

    Every process has all batches. A method that runs only its `share` of them adds up what it collected, by `ranks`.
    """

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

    @cached_property
    def places(self) -> list[int]:
        """Which batches this process computes; all of them where it is alone."""
        return ranks.own_places([batch["input_ids"].numel() for batch in self.batches])

    def share(self, by_batch: Sequence[Part]) -> list[Part]:
        """Of what there is by batch, the part of this process."""
        return [by_batch[place] for place in self.places]

    def by_batch(self, values: Tensor) -> tuple[Tensor, ...]:
        """Views of values by token, `(tokens, …)`, batch by batch."""
        parts: tuple[Tensor, ...] = values.split([token_count([batch]) for batch in self.batches])
        return parts

    def by_site(
        self, sites: Sequence[Site], description: str | None, compute: Callable[[Site], dict[str, Tensor]]
    ) -> Measured:
        """What is computed of each site alone, as `<site>.<name>`: processes share the sites; all have all of it.

        Without a description there is no bar.
        """
        own = [sites[place] for place in ranks.own_places([float(site.features) ** 3 for site in sites])]
        found = ranks.gathered(
            {
                f"{site.name}.{name}": values
                for site in (self.progress(own, description) if description else own)
                for name, values in compute(site).items()
            }
        )
        order = {site.name: number for number, site in enumerate(sites)}
        return {name: found[name] for name in sorted(found, key=lambda name: order[name.rpartition(".")[0]])}


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
        chosen = ranks.agreed(mask)
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
        sums = RegressionSums(width, width, self.job.student.device, ranks.agreed)
        for index in range(len(self.batches)):
            read, self._targets[index] = self.dense.across(index, site)
            sums.add(self.student.entering(index, site).float(), read.float())
        ranks.add_up(sums.products)
        check_finite(sums.products, site.name)
        identity = torch.eye(width, device=sums.products.device)
        fit = _solve(
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
        sums = RegressionSums(features, width, weight.device, ranks.agreed)
        for index in range(len(self.batches)):
            residual, inputs = self.student.before(index, site)
            if index not in self._targets:
                _, self._targets[index] = self.dense.across(index, site)
            target = self._targets.pop(index) - residual.float()
            sums.add(inputs.float(), target, None if weights is None else weights[index])
        ranks.add_up(sums.products)
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
            cut_site(job.student, site, ranks.agreed(masks[site.name]))
        return
    walk = Walk(job)
    for site in job.progress(job.student.sites, "refitting"):
        walk.cut(site, masks[site.name])
        walk.solve(site, walk.regression(site), ridge=ridge, intercept=intercept)
        walk.leave(site)


def _solve(sums: RegressionSums, prior: Tensor, bias: Tensor, *, ridge: float, intercept: bool, site: str) -> Refit:
    """The solution as the first process has it: libraries may round the same sums differently elsewhere."""
    own = solve(sums, prior, bias, ridge=ridge, intercept=intercept, site=site)
    return Refit(ranks.agreed(own.weight), ranks.agreed(own.bias))
