"""Look before the cut: what budgets would remove, and what that is likely to cost, after one measurement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from trimformer import plugins
from trimformer.errors import InvalidOption
from trimformer.model.manifest import plain, versions
from trimformer.model.sites import Masks, Site, place
from trimformer.model.structure import Structure, parameter_count
from trimformer.observing.calibration import Calibration
from trimformer.observing.measurements import Measured
from trimformer.observing.predictions import predictions
from trimformer.observing.watching import frozen
from trimformer.pruning.budget import Budget, CostTables, MeasuredCost, Prices, total_cost
from trimformer.pruning.claims import by_layer, called
from trimformer.pruning.contract import Foretells, Job, Method
from trimformer.pruning.facts import BlockFacts, BudgetFacts, compact_curves, units_by_block
from trimformer.pruning.foretelling import ForetoldLoss, foretold, with_band
from trimformer.pruning.memory import footprint
from trimformer.pruning.probe import shortest_row
from trimformer.pruning.sizes import Sizes
from trimformer.pruning.target import COUNTED, Target
from trimformer.pruning.uniform import uniform_job

DEFAULT_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Shares of the FLOPs that are planned where no budget is named."""
MILLISECONDS = 1e-3
DISTANCE_OF = {"categorical": "kl", "gaussian": "half_squared_distance"}
"""Distance that a loss is, by the family of the model's predictions."""


class Measuring(Protocol):
    """Gives what a plan is made of: a `Pruner`, which this file does not import."""

    name: str
    method: Method
    calibration: Calibration
    warnings: list[str]
    measuring_seconds: float | None

    @property
    def measured(self) -> Measured:
        """Measurements of the method by site."""

    def prices(self, cost: str) -> Prices:
        """Price the dense model's units in the cost of a name."""

    def job(self, student: Structure, costs: CostTables, limit: float) -> Job:
        """Make a job without bounds."""

    def target(self, budget: Budget | None, sizes: Sizes | None) -> Target:
        """Make the target of a budget, sizes or both."""

    def reachable(self, cost: str, sizes: Sizes | None) -> tuple[float, float]:
        """Compute the least and the largest share of a cost that sizes allow."""

    def check(self, budgets: Sequence[Budget], sizes: Sizes | None) -> None:
        """Refuse budgets of which one cannot be reached."""


@dataclass(frozen=True, kw_only=True, repr=False)
class PlannedSize:
    """Tells what one budget would leave of a model; counted, or foretold."""

    asked: str
    """As it was asked for: a share or, with its unit, an amount."""
    budget: BudgetFacts
    kept: dict[str, float]
    """Share that stays, by cost: those that are counted, the file's, and the time where it was measured."""
    parameters: int
    bytes: int
    """Of the file of the weights."""
    latency_ms: float | None = None
    """Of a forward pass, by the tables; None where no time was measured."""
    loss: ForetoldLoss
    units: tuple[BlockFacts, ...]
    """Units that each block keeps."""
    sites: dict[str, dict[str, Any]]
    """Sizes by layer, as a file of sizes has them."""

    @property
    def sizes(self) -> Sizes:
        """The same as sizes to prune by: `pruner.prune(sizes=plan[0].sizes)`."""
        return Sizes(sites=self.sites, uniform=self.budget.uniform)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the sizes as a file that can be edited and given back, see `read_sizes`; give its path.

        Raises:
            CheckpointError: the file exists and `overwrite` is not set, or it cannot be written.
        """
        return Path(plugins.presentation("plans").save_sizes(self, path, overwrite=overwrite))

    def __repr__(self) -> str:
        return f"<PlannedSize: {self.budget.cost} {self.asked}, {self.bytes / 1e6:.1f} MB>"


@dataclass(frozen=True, kw_only=True)
class DenseFacts:
    """The model as it is, for comparison."""

    parameters: int
    bytes: int
    latency_ms: float | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan:
    """Tells what budgets would remove and lose; shows itself in a notebook, and can be saved and reported."""

    method: str
    model: str
    """Where the model came from, as it says itself; empty where it does not."""
    tokens: int
    """Calibration tokens that were measured on."""
    sequences: int
    distance: str | None
    """What losses are, of `DISTANCE_OF`; None where they have no unit, and only compare sizes."""
    measuring_seconds: float | None
    """Seconds that measuring took, in this run or an earlier one; None where that is not known."""
    pruning_seconds: float | None
    """Seconds that each size is likely to take, beyond measuring."""
    memory_bytes: float
    """Memory that pruning needs beside the model."""
    dense: DenseFacts
    budgets: tuple[PlannedSize, ...]
    curves: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Cost of removing units, by site; see `compact_curves`."""
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.budgets)

    def __iter__(self) -> Iterator[PlannedSize]:
        return iter(self.budgets)

    def __getitem__(self, number: int) -> PlannedSize:
        return self.budgets[number]

    def __repr__(self) -> str:
        return str(plugins.presentation("plans").in_one_line(self))

    def _repr_html_(self) -> str:
        return str(plugins.presentation("plans").as_html(self))

    @property
    def facts(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        found: dict[str, Any] = plain(self)
        return found

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the sizes of the only budget as a file that can be edited and given back; give its path.

        Raises:
            InvalidOption: there are several budgets; save one of them: `plan[0].save("plan.json")`.
            CheckpointError: the file exists and `overwrite` is not set, or it cannot be written.
        """
        check_one_size(self.budgets)
        return self.budgets[0].save(path, overwrite=overwrite)

    def report(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the report, one HTML page that needs nothing else; give its path.

        Raises:
            CheckpointError: the file exists and `overwrite` is not set, or it cannot be written.
        """
        return Path(plugins.presentation("plans").report(self, path, overwrite=overwrite))


def check_one_size(budgets: Sequence[Any]) -> None:
    """Refuse to write the sizes of several budgets, or of none, into one file.

    Raises:
        InvalidOption: says how to ask for one.
    """
    if len(budgets) != 1:
        raise InvalidOption(
            f"a file of sizes is of one budget, and there are {len(budgets)}: plan a single one, such as `flops=0.5`"
        )


def check_foretells(name: str, method: Method) -> Foretells:
    """Give a method as one that can foretell.

    Raises:
        InvalidOption: it cannot; names those that can.
    """
    if isinstance(method, Foretells):
        return method
    able = [other for other, kind in plugins.provided("methods").items() if hasattr(kind, "decide")]
    raise InvalidOption(
        f"{name} has no removal curves, so it cannot foretell what a budget costs: plan with {' or '.join(able)}"
    )


def default_budgets(least: float, *, round_to: int | None = None, uniform: bool = False) -> list[Budget]:
    """Make the budgets that are compared where none is named: `DEFAULT_SHARES`, but for those below the least."""
    return [Budget(flops=share, round_to=round_to, uniform=uniform) for share in DEFAULT_SHARES if share >= least]


def make_plan(of: Measuring, budgets: Sequence[Budget] | None, sizes: Sizes | None) -> Plan:
    """Make the plan of some budgets; measures where that is not done yet, and changes nothing.

    Args:
        of: a pruner of the units that the sizes ask for.
        budgets: those to compare; None for `default_budgets`.
        sizes: asked for by name; each budget decides what they leave open.

    Raises:
        TrimformerError: the method cannot foretell, or a budget cannot be reached; before anything is measured.
    """
    method, calibration = check_foretells(of.name, of.method), of.calibration
    budgets = default_budgets(of.reachable(COUNTED, sizes)[0]) if budgets is None else budgets
    of.check(budgets, sizes)
    if not budgets:
        raise InvalidOption("`budgets` is empty: give at least one, such as Budget(flops=0.5)")
    measured, dense = of.measured, calibration.dense
    distance = _distance(calibration) if method.in_nats else None
    tables = {site: found.removal_cost for site, found in measured.items()}
    planned = []
    for budget in budgets:
        target = of.target(budget, sizes)
        masks = _decided(of, method, target)
        added = foretold(dense, masks, tables, calibration.tokens)
        loss = with_band(added) if distance else ForetoldLoss(expected=added)
        planned.append(_size(of, budget, target, masks, loss))
    seconds = of.measuring_seconds
    return Plan(
        method=of.name,
        model=dense.model.name_or_path or "",
        tokens=calibration.tokens,
        sequences=calibration.sequences,
        distance=distance,
        measuring_seconds=seconds,
        pruning_seconds=None if seconds is None else of.method.effort.after(seconds, len(dense.sites)),
        memory_bytes=footprint(dense, calibration.batches, of.method).needed,
        dense=DenseFacts(
            parameters=parameter_count(dense.model),
            bytes=round(of.prices("size").total),
            latency_ms=_milliseconds(of, dense.full_masks(), budgets),
        ),
        budgets=tuple(planned),
        curves=compact_curves(tables),
        warnings=tuple(of.warnings),
        versions=versions(),
    )


def _decided(of: Measuring, method: Foretells, target: Target) -> Masks:
    """Decide masks as pruning would, on the dense model in the place of a student."""
    dense, prices = of.calibration.dense, of.prices(target.cost)
    costs, limit = target.terms(dense, prices, target.share)
    job = replace(of.job(dense, costs, limit), bounds=target.constraints.bounds)
    job = target.dropping(job, of.method, of.measured, prices)
    masks = method.decide(job, of.measured)
    return method.decide(uniform_job(job, masks), of.measured) if target.uniform else masks


def _size(of: Measuring, budget: Budget, target: Target, masks: Masks, loss: ForetoldLoss) -> PlannedSize:
    dense, costs = of.calibration.dense, plugins.provided("costs")
    counted = {name for name, cost in costs.items() if not isinstance(cost, MeasuredCost)} | {target.cost}
    parameters, size = of.prices("params"), of.prices("size")
    gone = total_cost(dense.full_masks(), parameters.tables) - total_cost(masks, parameters.tables)
    return PlannedSize(
        asked=budget.asked,
        budget=target.budget_facts(of.prices(target.cost).kept(masks)),
        kept={name: of.prices(name).kept(masks) for name in costs if name in counted},
        parameters=parameter_count(dense.model) - round(gone),
        bytes=round(size.of_sum(total_cost(masks, size.tables))),
        latency_ms=_milliseconds(of, masks, [budget]),
        loss=loss,
        units=units_by_block(dense, masks),
        sites=sizes_by_layer(dense, masks),
    )


def _milliseconds(of: Measuring, masks: Masks, budgets: Sequence[Budget]) -> float | None:
    """Add up the time of a forward pass by the tables, where one of the budgets is of time."""
    if "latency" not in {budget.cost for budget in budgets}:
        return None
    prices = of.prices("latency")
    return MILLISECONDS * prices.of_sum(total_cost(masks, prices.tables))


def sizes_by_layer(structure: Structure, masks: Masks) -> dict[str, dict[str, Any]]:
    """Write down how many units each layer keeps, as a file of sizes has it: `{"0": {"heads": 8, "neurons": 1024}}`."""
    found: dict[str, dict[str, Any]] = {}
    for number, layer in enumerate(by_layer(structure)):
        words = [called(site)[0] for site in layer]
        names = [
            word if words.count(word) == 1 else place(site.name)[1] for word, site in zip(words, layer, strict=True)
        ]
        found[str(number)] = {name: _size_of(site, masks[site.name]) for name, site in zip(names, layer, strict=True)}
    return found


def _size_of(site: Site, mask: Tensor) -> int | str:
    """Give a number of units, or of heads of another width than before the number of both."""
    if not (site.head_width and site.units):
        return int(mask.sum()) * site.groups
    widths = site.by_head(mask).sum(1)
    heads, width = int((widths > 0).sum()), int(widths.max())
    return f"{heads}x{width}" if 0 < width < site.head_width else heads


@torch.no_grad()
def _distance(calibration: Calibration) -> str | None:
    """Name the distance that losses are; None where a sequence has several predictions, or an embedding.

    A curve takes the errors of a sequence's tokens as if they had nothing to do with each other. Where a prediction is
    made of many tokens, as an embedding is, they add up: what is lost is many times more than the curve says.
    """
    model, row = calibration.dense.model, shortest_row(calibration.batches)
    with frozen(model):
        found = predictions(model(**row), row, model)
    _, count, numbers = found.values.shape
    trusted = found.token_axis is None and count == 1 and (found.family == "categorical" or numbers == 1)
    return DISTANCE_OF[found.family] if trusted else None
