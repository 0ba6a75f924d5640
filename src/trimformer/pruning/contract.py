"""The contract of a method: what it measures before a budget is known, and the job that it is given."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, Protocol, runtime_checkable

from trimformer import processes
from trimformer.errors import TrimformerError
from trimformer.model.sites import Masks, Scores, Site
from trimformer.model.structure import Structure
from trimformer.observing.calibration import Calibration
from trimformer.observing.measurements import Measured, Measurement
from trimformer.pruning.budget import CostTables, total_cost
from trimformer.pruning.choose.bounds import FREE, Bounds
from trimformer.pruning.journal import Journal, Stage
from trimformer.pruning.parameters import MOST_TOKENS

Backward = Literal["none", "by block", "whole model"]
LAYER = "layer"
"""Kind of unit of a method that removes whole layers only."""
STAGES = 2
"""Stages of a method, `measure` and `prune`, as progress numbers them."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Time that a method takes, counted in forward passes of the dense model over all calibration rows, as measured."""

    measuring: float = 0.0
    """Passes before a budget is known, once for all budgets."""
    pruning: float = 0.0
    """Passes of each budget."""
    by_site: float = 0.0
    """Passes of each budget for every sublayer of the model, beside those of `pruning`."""
    most_tokens: int = MOST_TOKENS
    """Calibration tokens beyond which the method hardly gains."""

    def passes(self, sites: int) -> float:
        """Add up what one budget takes, on a model with so many sublayers."""
        return self.measuring + self.pruning + self.by_site * sites

    def after(self, measuring: float, sites: int) -> float | None:
        """Estimate the seconds of one budget where measuring took so many; None where nothing is measured before.

        >>> Effort(measuring=2.0, pruning=3.0).after(10.0, sites=12)
        15.0
        """
        return measuring * (self.passes(sites) / self.measuring - 1) if self.measuring else None


class Method(Protocol):
    """A pruning method: a frozen, keyword-only dataclass whose fields are its options."""

    measured_by: ClassVar[tuple[str, ...]]
    """Names of the options that `measure` reads: with these the same, what it measured can be reused."""
    measurement: ClassVar[type[Measurement] | None]
    """Kind of measurement that `measure` gives of each site; None where it measures nothing."""
    needs_labels: ClassVar[bool]
    """True if `calibration.labels` is read; only then are there any."""
    removes: ClassVar[str | None]
    """Kind of the units that it removes, `layer` for whole layers; None for units of any kind."""

    @property
    def backward(self) -> Backward:
        """Part of the model that gradients go through at a time, which takes memory: none, a block, or all of it."""

    @property
    def effort(self) -> Effort:
        """How long it takes, and how many tokens pay."""

    def measure(self, calibration: Calibration) -> Measured:
        """Measure what serves every budget: a `measurement` by site, or an empty dictionary where there is nothing."""

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Decide the masks and give them; cut and tune `job.student` accordingly, and leave `job.dense` as it is."""


@runtime_checkable
class JudgesUnits(Protocol):
    """A method that can tell what units are worth: some sublayers can be dropped by it, and query heads be ordered."""

    def worth(self, job: Job, measured: Measured) -> Scores:
        """Estimate what is lost with each unit, `(units,)` by site: added up, what is lost where a site is emptied."""


@runtime_checkable
class TrainsBlocks(Protocol):
    """A method that may train blocks after the refit."""

    @property
    def training_epochs(self) -> int:
        """How often over the calibration rows, at most; 0 trains nothing."""


@runtime_checkable
class LooksFirst(Protocol):
    """A method to which a part of the calibration rows tells whether more of them pay: see `first_look`."""

    @property
    def negligible(self) -> float:
        """Divergence from the dense model, in nats, up to which no more pay; 0: they always do."""

    def looking(self) -> Method:
        """Give the method without what pays only where more than that is lost."""


@runtime_checkable
class NarrowsHeads(Protocol):
    """A method that may remove dimensions of heads, and of heads that stay as many each: see `choose/narrowing`."""

    @property
    def narrows(self) -> bool:
        """True if it is to, wherever attention can have narrower heads."""


@runtime_checkable
class Foretells(Protocol):
    """A method that knows sizes and loss before it cuts: its measurements have a `removal_cost`."""

    @property
    def in_nats(self) -> bool:
        """True if removal costs are nats of KL divergence from the dense model; else they only compare sizes."""

    def decide(self, job: Job, measured: Measured) -> Masks:
        """Decide masks by what was measured; `prune` keeps as many units of every site, though maybe others."""


@dataclass(frozen=True)
class Job(Calibration):
    """One pruning task, with everything decided but the masks.

    `student` starts as a copy of the dense model; the method cuts and tunes it. `limit` is what the kept units may
    cost together; `costs[site][k]` is the cost of keeping `k` units of a site. The least that `bounds` allows costs no
    more than the limit.
    """

    student: Structure
    costs: CostTables
    limit: float
    stock: bool = field(default=False, kw_only=True)
    """True if the student stays one of its own class: no output projection gets a bias that it does not have."""
    bounds: Bounds = field(default=FREE, kw_only=True)
    """What every site keeps at least and at most, and units that stay; every search takes it."""
    journal: Journal | None = field(default=None, kw_only=True)
    """Where to keep what is settled, for a run that goes on where this one was interrupted; None keeps nothing."""

    def stage(self, name: str) -> Stage | None:
        """Open what the journal has of a stage of exactly this job; None without a journal."""
        if self.journal is None:
            return None
        made_by = [str(self.dense.device), processes.count()]
        bounds = {each.name: dict(getattr(self.bounds, each.name)) for each in fields(self.bounds)}
        return self.journal.on(made_by, [self.limit, self.stock], dict(self.costs), bounds).stage(name)

    def unit_cost(self, site: Site) -> float:
        """Compute the mean cost of a unit of the site; 1 where there is none, so that scores can be divided by it."""
        return float(self.costs[site.name][-1]) / site.units if site.units else 1.0

    def first_decides(self, masks: Masks) -> Masks:
        """Give the masks that the first process has: rounding may decide otherwise elsewhere."""
        return processes.agreed_masks(masks)

    def check(self, masks: Masks) -> None:
        """Refuse masks outside the bounds or above the limit.

        Raises:
            TrimformerError: says what the method did.
        """
        self.bounds.check(masks)
        cost = total_cost(masks, self.costs)
        if cost > self.limit * (1 + 1e-9):
            raise TrimformerError(
                f"the method kept {cost:.4g} of at most {self.limit:.4g}: this is a bug of the method"
            )


def job_on(calibration: Calibration, student: Structure, costs: CostTables, limit: float) -> Job:
    """Make a job of a calibration, without bounds."""
    of = calibration
    return Job(of.dense, of.batches, of.seed, of.progress, labels=of.labels, student=student, limit=limit, costs=costs)
