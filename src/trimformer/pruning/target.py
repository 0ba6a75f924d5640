"""What a pruning run aims at: a budget, sizes asked for by name, or both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from trimformer import processes
from trimformer.errors import InvalidOption
from trimformer.model.arguments import told
from trimformer.model.sites import Masks
from trimformer.model.structure import Structure
from trimformer.observing.measurements import Measured
from trimformer.pruning.budget import Budget, CostTables, Prices, multiples_of, neurons_of, rounded_tables
from trimformer.pruning.constraints import Constraints, constrain, suited
from trimformer.pruning.contract import Job, JudgesUnits, Method
from trimformer.pruning.facts import BudgetFacts, SizesFacts
from trimformer.pruning.sizes import Sizes

COUNTED = "flops"
"""Name of the cost that is told of a model where no budget names one."""


@dataclass(frozen=True)
class Target:
    """A budget and sizes, one of which may be missing, and what they mean for a model."""

    budget: Budget | None
    sizes: Sizes | None
    constraints: Constraints

    @property
    def cost(self) -> str:
        """Name of the cost that is to be small."""
        return self.budget.cost if self.budget else COUNTED

    @property
    def share(self) -> float:
        """Share of the cost that may stay; 1 where sizes alone decide."""
        return self.budget.keep_fraction if self.budget else 1.0

    @property
    def round_to(self) -> int | None:
        """Multiple that kept neurons are of where no size says otherwise, as `Budget.round_to`; 1 without a budget."""
        return self.budget.round_to if self.budget else 1

    @property
    def uniform(self) -> bool:
        """True for the same sizes in every layer."""
        return any(asked is not None and asked.uniform for asked in (self.budget, self.sizes))

    def terms(self, dense: Structure, prices: Prices, share: float) -> tuple[CostTables, float]:
        """Compute what units cost, and what the kept ones may cost together.

        That is a share of all or, without a budget, what sizes come to.

        Raises:
            UnreachableTarget: the sizes, or the model without any unit, cost more; names what can be reached.
        """
        multiples = self.constraints.bounds.fitting(neurons_of(dense), multiples_of(dense, self.round_to))
        costs = rounded_tables(prices.tables, multiples)
        if self.budget is None:
            return costs, self.constraints.cost(costs)[1]
        limit = prices.limit(share)
        self.constraints.check_limit(costs, limit, prices.share_of)
        return costs, limit

    def dropping(self, job: Job, method: Method, measured: Measured, prices: Prices) -> Job:
        """Choose the blocks and sublayers to drop, by what the method says that they are worth, and bound the job.

        Raises:
            UnreachableTarget: what is left may cost more than the limit at least.
        """
        if not (self.constraints.drops and isinstance(method, JudgesUnits)):
            return job
        losses = {name: float(each.sum()) for name, each in method.worth(job, measured).items()}
        agreed = processes.agreed(torch.tensor(list(losses.values()), dtype=torch.float64)).tolist()
        chosen = self.constraints.dropping(dict(zip(losses, agreed, strict=True)))
        limit = job.limit if self.budget else chosen.cost(job.costs)[1]
        chosen.check_limit(job.costs, limit, prices.share_of)
        return replace(job, bounds=chosen.bounds, limit=limit)

    def budget_facts(self, reached: float) -> BudgetFacts:
        """Tell what was asked for, and which share was reached."""
        return BudgetFacts(
            cost=self.cost,
            asked=self.share if self.budget else reached,
            reached=reached,
            round_to=self.round_to,
            uniform=self.uniform,
        )

    def sizes_facts(self, masks: Masks) -> SizesFacts | None:
        """Tell which sizes were asked for, and which sublayers lost all units; None where no size was asked for."""
        if self.sizes is None:
            return None
        dropped = tuple(name for name, mask in masks.items() if len(mask) and not bool(mask.any()))
        return SizesFacts(asked=self.sizes.asked, dropped=dropped, alone=self.budget is None)


def aimed(budget: Budget | None, sizes: Sizes | None, structure: Structure, name: str, method: Method) -> Target:
    """Make the target of a method on a model.

    Args:
        budget: the share to keep; None where sizes alone decide.
        sizes: asked for by name; None where a budget alone decides.
        structure: of the dense model.
        name: of the method.
        method: with its options.

    Raises:
        InvalidOption: sizes do not fit the model or the method.
    """
    if sizes is None:
        return Target(budget, None, Constraints())
    constraints = suited(constrain(sizes, structure), structure, name, method)
    if budget is None and not constraints.removes_anything(structure):
        raise InvalidOption("nothing goes by these sizes alone: give a budget as well, or sizes that remove units")
    target = Target(budget, sizes, constraints)
    bounds = constraints.bounds.in_multiples(neurons_of(structure), multiples_of(structure, target.round_to))
    return replace(target, constraints=replace(constraints, bounds=bounds))


def check_asked(budget: Any, sizes: Any) -> None:
    """Refuse what is no budget and no sizes, or neither.

    Raises:
        InvalidOption: says what to give.
    """
    check_sizes(sizes)
    if budget is None and sizes is not None:
        return
    if not isinstance(budget, Budget):
        raise InvalidOption(f"`budget={told(budget)}` is no Budget: give one such as Budget(flops=0.4)")


def check_sizes(sizes: Any) -> None:
    """Refuse what is no sizes; None is some that nobody gave.

    Raises:
        InvalidOption: says what to give.
    """
    if sizes is not None and not isinstance(sizes, Sizes):
        raise InvalidOption(f"`sizes={told(sizes)}` are no Sizes: give some such as Sizes(heads=8)")
