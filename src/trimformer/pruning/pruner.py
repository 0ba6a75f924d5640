"""The story: data and model in, a smaller model and its facts out. One call a stage."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer import plugins, processes
from trimformer.data.given import Data
from trimformer.data.tables import Column
from trimformer.errors import InvalidOption, caution
from trimformer.model.arguments import told
from trimformer.model.manifest import versions
from trimformer.model.sites import Masks
from trimformer.model.slots import read_by_dimension, read_by_slot
from trimformer.model.structure import Structure, parameter_count, read_structure
from trimformer.model.surgery import describe_cut, describe_stock, pruning_config
from trimformer.model.unchanged import leaves_unchanged, unchanged
from trimformer.observing.calibration import Calibration
from trimformer.observing.measurements import Measured
from trimformer.observing.resources import Used, watching_resources
from trimformer.progress import Progress, staged
from trimformer.pruning import preflight
from trimformer.pruning.arguments import check_arguments
from trimformer.pruning.budget import Budget, CostTables, MeasuredCost, Prices, kept_by_cost, workload_of
from trimformer.pruning.cache import MeasuredCache
from trimformer.pruning.contract import STAGES, Job, job_on
from trimformer.pruning.facts import (
    ParameterFacts,
    PruningFacts,
    compact_curves,
    heads_by_site,
    patterns,
    units_by_block,
)
from trimformer.pruning.fingerprint import work_key
from trimformer.pruning.first_look import FirstLook, first_look
from trimformer.pruning.journal import Journal
from trimformer.pruning.measured_budget import pruned_as_measured
from trimformer.pruning.measuring import measure
from trimformer.pruning.method_options import asked_by, make_method
from trimformer.pruning.parameters import AUTO, DEFAULT_METHOD, DEFAULT_MINUTES
from trimformer.pruning.plan import Plan, make_plan
from trimformer.pruning.preparation import Source, calibration_facts, calibration_on
from trimformer.pruning.probe import check_layout, check_result, shortest_row
from trimformer.pruning.query_heads import by_place, one_by_one_in, order_by_worth, with_asked_units
from trimformer.pruning.result import PruningResult
from trimformer.pruning.sizes import Sizes
from trimformer.pruning.target import COUNTED, Target, aimed, check_asked, check_sizes
from trimformer.pruning.turning import narrows_heads, turned
from trimformer.pruning.uniform import check_fits, check_uniform, least_cost, uniform_job

Ordering = Callable[[], tuple[Calibration, dict[str, Tensor]]]  # a copy in order, and by site where heads were before


class Pruner:
    """One calibration, many sizes: what a method measures once is reused for every budget.

    >>> pruner = Pruner(model, texts, tokenizer=tokenizer)                             # doctest: +SKIP
    >>> sizes = [pruner.prune(Budget(flops=share)) for share in (0.8, 0.6, 0.4)]       # doctest: +SKIP
    """

    def __init__(
        self,
        model: PreTrainedModel,
        data: Data,
        *,
        method: str = DEFAULT_METHOD,
        tokenizer: PreTrainedTokenizerBase | None = None,
        calibration_tokens: int | str | None = AUTO,
        minutes: float = DEFAULT_MINUTES,
        sequence_length: float | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        cache: MeasuredCache | None = None,
        journal: Journal | None = None,
        progress: Progress | bool | None = None,
        column: Column = None,
    ) -> None:
        """Read and check all, as for `prune`; `cache` and `journal` keep for later what is measured, and settled."""
        check_arguments(
            tokenizer=tokenizer,
            options=options,
            cache=cache,
            journal=journal,
            method=method,
            calibration_tokens=calibration_tokens,
            minutes=minutes,
            sequence_length=sequence_length,
            batch_size=batch_size,
            seed=seed,
        )
        self.stages = staged(progress, STAGES)
        self.tokenizer = tokenizer
        self.name, self.method = method, make_method(method, options or {})
        dense, left_out = read_structure(model), list[str]()
        source = Source(data, tokenizer, calibration_tokens, minutes, sequence_length, seed, column)
        with unchanged(model):
            with asked_by(method):
                self.calibration, chosen = calibration_on(dense, source, self.method, self.stages, left_out.append)
            self.warnings = left_out + preflight.check(self.calibration, method, self.method)
        self.workload = workload_of(model, sequence_length, batch_size, self.calibration.mean_length)
        self.cache, self.journal = cache or (journal.measured if journal else None), journal
        self.measuring = Used()
        self.measuring_seconds: float | None = None
        self.ordering: Used | None = None
        self._prices: dict[str, Prices] = {}
        self._architecture = dense.architecture
        self._ordering: Ordering | None = None
        self._places: dict[str, Tensor] = {}
        self._looks_first = chosen
        for warning in self.warnings:
            caution(warning)

    @cached_property
    def measured(self) -> Measured:
        """Measurements of the method by site, made once, before a budget is known; from the cache where it has them."""
        self.stages.enter("measuring")
        if self._ordering is not None and self.ordering is None:
            with watching_resources(self.calibration.dense.device) as used:
                calibration, places = self._ordering()
            self.calibration, self._places, self.ordering = calibration, places, used
        found = measure(self.calibration, self.name, self.method, self.cache)
        self.measuring, self.measuring_seconds = found.used, found.seconds
        return found.measured

    def measure(self, budget: Budget, sizes: Sizes | None = None) -> None:
        """Measure what pruning to a budget needs first, where that is not done yet."""
        if self._look is not None:
            self._looking.measure(budget, sizes)
        else:
            _ = self._asked(sizes, budget).measured

    def measuring_cpu_seconds(self, budget: Budget) -> float:
        """Tell the CPU seconds that measuring for a budget has taken so far, ordering included; 0 before it is done."""
        asked = self._asked(None, budget)
        return asked.measuring.cpu_seconds + (asked.ordering.cpu_seconds if asked.ordering else 0.0)

    def _asked(self, sizes: Sizes | None, *budgets: Budget | None) -> Pruner:
        """Give the pruner of the units to be asked for: this one's, or slots of query heads, or dimensions of heads."""
        check_sizes(sizes)
        dense = self.calibration.dense
        if dense.architecture is not self._architecture:
            return self
        asked = with_asked_units(dense, sizes)
        if narrows_heads(asked, self.name, self.method, budgets, sizes):
            return self._by_dimension
        return self if asked is dense else self._by_slot

    @cached_property
    def _by_slot(self) -> Pruner:
        """The same with slots of query heads as units, on a copy of the model that is ordered before it is measured."""
        slots = read_by_slot(self.calibration.dense)
        check_layout(slots, shortest_row(self.calibration.batches))
        return self._on(slots, self._ordered)

    def _ordered(self) -> tuple[Calibration, dict[str, Tensor]]:
        """Copy the model and order its query heads by slot, by what they are worth one by one."""
        slots = read_by_slot(self.calibration.dense).copied()
        judging = self._on(one_by_one_in(slots))
        job = judging.job(judging.calibration.dense, (prices := judging.prices(COUNTED)).tables, prices.limit(1.0))
        places = order_by_worth(slots, self.method, job, judging.measured)  # type: ignore[arg-type]  # it judges units
        return self.calibration.on(slots), places

    @cached_property
    def _by_dimension(self) -> Pruner:
        """The same with dimensions of heads as units, on a copy of the model that is turned before it is measured."""
        return self._on(read_by_dimension(self.calibration.dense), lambda: (turned(self.calibration), {}))

    def _on(self, structure: Structure, ordering: Ordering | None = None) -> Pruner:
        """Make the same pruner of the model as another structure has it; nothing is ordered or measured yet."""
        return self._with(calibration=self.calibration.on(structure), _prices={}, _ordering=ordering)

    def _with(self, **changed: Any) -> Pruner:
        """Make the same pruner with other attributes, which has found out nothing yet, and takes no first look."""
        found = copy.copy(self)
        for name in [name for name, kind in vars(Pruner).items() if isinstance(kind, cached_property)]:
            vars(found).pop(name, None)
        vars(found).update(changed, _look=None)
        return found

    @cached_property
    def _look(self) -> FirstLook | None:
        """A first look, where the number of tokens was left open and one pays; None once all rows are measured."""
        return first_look(self.calibration, self.method) if self._looks_first else None

    @cached_property
    def _looking(self) -> Pruner:
        """The same on the rows of the first look."""
        look = self._look
        return self._with(calibration=look.calibration, method=look.method) if look else self

    @leaves_unchanged
    def prune(self, budget: Budget | None = None, sizes: Sizes | None = None) -> PruningResult:
        """Make a pruned copy of the model within a budget, with sizes asked for by name, or both.

        A cost that is measured is measured on the result as well, which is pruned again where it is off. Where the
        number of tokens was left open, a part of them is tried first, for every size.

        Raises:
            TrimformerError: as `prune`.
        """
        if self._look is None:
            return self._on_all(budget, sizes)
        found, looking = self._look.tried(lambda: self._looking.prune(budget, sizes), self.calibration, self.stages)
        if found is not None:
            return replace(found, facts=replace(found.facts, options=asdict(self.method)))  # type: ignore[call-overload]
        if "measured" not in vars(self._asked(sizes, budget)):
            self.stages.more(STAGES)
        result = self._on_all(budget, sizes)
        return replace(result, facts=result.facts.with_stage("looking", looking))

    def _on_all(self, budget: Budget | None, sizes: Sizes | None) -> PruningResult:
        """Prune by all calibration rows."""
        if (asked := self._asked(sizes, budget)) is not self:
            return asked.prune(budget, sizes)
        target = self.target(budget, sizes)
        cost = plugins.load("costs", target.cost)
        if budget is None or not isinstance(cost, MeasuredCost):
            return self._prune(target, target.share)
        dense, progress = self.calibration.dense.model, self.calibration.progress
        return pruned_as_measured(
            lambda share: self._prune(target, share),
            lambda model: processes.agreed_number(cost.kept(dense, model, self.workload, progress)),
            lowest=max(self.prices(target.cost).floor, self.reachable(target.cost, sizes)[0]),
            asked=target.share,
        )

    def check(self, budgets: Sequence[Budget], sizes: Sizes | None = None) -> None:
        """Refuse budgets of which one cannot be reached, before the method measures anything.

        Raises:
            TrimformerError: as `prune`.
        """
        if not isinstance(budgets, Sequence):
            raise InvalidOption(f"`budgets={told(budgets)}` must be a list of Budgets")
        if (asked := self._asked(sizes, *budgets)) is not self:
            asked.check(budgets, sizes)
            return
        for budget in budgets:
            target = self.target(budget, sizes)
            job = self._bounded(target, *target.terms(self.calibration.dense, self.prices(budget.cost), target.share))
            if target.uniform:
                check_fits(job)

    @leaves_unchanged
    def plan(self, budgets: Sequence[Budget] | None = None, sizes: Sizes | None = None) -> Plan:
        """Foretell what budgets would remove and lose, after one measurement; nothing is cut. See `Plan`.

        Raises:
            TrimformerError: as `prune`, or the method cannot foretell; before anything is measured.
        """
        self._look = None  # the sizes that are planned are those that pruning gives
        named = budgets if isinstance(budgets, Sequence) and budgets else [Budget(flops=1.0)]
        return make_plan(self._asked(sizes, *named), budgets, sizes)

    def reachable(self, cost: str, sizes: Sizes | None = None, *, uniform: bool = False) -> tuple[float, float]:
        """Compute the least and the largest share of the dense model's cost that sizes asked for by name allow.

        With `uniform`, the least that the same sizes in every layer come to.
        """
        plugins.load("costs", cost)
        if (asked := self._asked(sizes, replace(Budget.of(cost, 1.0), uniform=uniform))) is not self:
            return asked.reachable(cost, sizes, uniform=uniform)
        prices = self.prices(cost)
        target = self.target(replace(Budget.of(cost, 1.0), uniform=uniform), sizes)
        least, most = target.constraints.cost(prices.tables)
        if target.uniform:
            least = least_cost(self._bounded(target, prices.tables, most))
        return prices.share_of(least), prices.share_of(most)

    def target(self, budget: Budget | None, sizes: Sizes | None) -> Target:
        """Make the target of a budget, sizes or both, as this model has them."""
        check_asked(budget, sizes)
        budget = budget and budget.as_share(self.calibration.dense, self.prices)
        target = aimed(budget, sizes, self.calibration.dense, self.name, self.method)
        if target.uniform:
            check_uniform(self.calibration.dense, self.name, self.method)
        return target

    def _prune(self, target: Target, share: float) -> PruningResult:
        """Make a pruned copy that keeps at most a share of the target's cost, by formulas or tables."""
        if "measured" not in vars(self):
            self.stages.enter("measuring")  # pricing belongs to it
        prices = self.prices(target.cost)
        costs, limit = target.terms(self.calibration.dense, prices, share)
        if target.uniform:
            check_fits(self._bounded(target, costs, limit))
        measured = self.measured  # before the student takes its memory
        self.stages.enter("pruning")
        journal = self.journal and self.journal.on(work_key(self.calibration, self.name, self.method))
        job = replace(self._bounded(target, costs, limit), student=self.calibration.dense.copied(), journal=journal)
        with watching_resources(job.dense.device) as pruning:
            job = target.dropping(job, self.method, measured, prices)
            masks = processes.agreed_masks(self.method.prune(job, measured))
            if target.uniform:
                job = uniform_job(job, masks)
                masks = processes.agreed_masks(self.method.prune(job, measured))
        small = (describe_stock if target.uniform else describe_cut)(job.student, masks)
        check_result(small, shortest_row(job.batches))
        job.check(masks)
        facts = self._facts(job, masks, target, measured)
        facts = facts if self.ordering is None else facts.with_stage("ordering", self.ordering)
        facts = facts.with_stage("measuring", self.measuring).with_stage("pruning", pruning)
        return PruningResult(job.student.model, by_place(masks, self._places), facts, self.tokenizer)

    def job(self, student: Structure, costs: CostTables, limit: float) -> Job:
        """Make a job of this calibration without bounds."""
        return job_on(self.calibration, student, costs, limit)

    def _bounded(self, target: Target, costs: CostTables, limit: float) -> Job:
        return replace(self.job(self.calibration.dense, costs, limit), bounds=target.constraints.bounds)

    def prices(self, cost: str) -> Prices:
        """Price the dense model's units in the cost of that name; measured or counted once."""
        if cost not in self._prices:
            self._prices[cost] = plugins.load("costs", cost).prices(
                self.calibration.dense, self.workload, cache=self.cache, progress=self.calibration.progress
            )
        return self._prices[cost]

    def _facts(self, job: Job, masks: Masks, target: Target, measured: Measured) -> PruningFacts:
        small = job.student.model
        return PruningFacts(
            method=self.name,
            options=asdict(self.method),  # type: ignore[call-overload]  # every method is a dataclass
            kept=kept_by_cost(self.prices, self._prices, masks),
            model_class=type(small).__name__,
            dtype=str(small.dtype).removeprefix("torch."),
            units=units_by_block(job.dense, masks),
            patterns=patterns(by_place(heads_by_site(job.dense, masks), self._places)),
            parameters=ParameterFacts(dense=parameter_count(job.dense.model), pruned=parameter_count(small)),
            already_pruned=bool(pruning_config(job.dense).kept),
            warnings=tuple(self.warnings),
            calibration=calibration_facts(job),
            workload=self.workload,
            processes=processes.count(),
            versions=versions(),
            budget=target.budget_facts(self.prices(target.cost).kept(masks)),
            sizes=target.sizes_facts(masks),
            seconds={},
            curves=compact_curves({site: found.removal_cost for site, found in measured.items()}),
        )
