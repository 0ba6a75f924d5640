"""Budgets: how much may stay, what units cost, and what the whole model then costs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer import plugins
from trimformer.data.batches import Workload, rows_at_once
from trimformer.errors import InvalidOption, UnreachableTarget, as_given, require_range
from trimformer.model.limits import most_tokens
from trimformer.model.sites import Masks
from trimformer.model.structure import Structure
from trimformer.progress import Progress
from trimformer.pruning.cache import MeasuredCache
from trimformer.pruning.parameters import BATCH_SIZE, ROUND_TO, SEQUENCE_LENGTH


def linear_table(units: int, unit_cost: float, first: float = 0.0) -> Tensor:
    """Make the table of a cost that every unit adds alike, and the first of them `first` more: `(units + 1,)`."""
    counts = torch.arange(units + 1, dtype=torch.float64)
    return counts * unit_cost + counts.clamp(max=1) * first


FAST, MANY = 16, 512
"""Unless it is said otherwise, kept neurons are multiples of the first where a layer has as many as the second:
processors multiply whole vectors and tiles, so that others save less time than FLOPs."""


def multiple_of(neurons: int, round_to: int | None) -> int:
    """Give what the neurons that stay of so many are a multiple of.

    >>> multiple_of(1536, None), multiple_of(64, None), multiple_of(64, 8)
    (16, 1, 8)
    """
    return round_to or (FAST if neurons >= MANY else 1)


def rounded_table(table: Tensor, multiple: int) -> Tensor:
    """Make any count of units cost as much as the next multiple, or as all: `(units + 1,)` both."""
    counts = torch.arange(len(table))
    return table[((counts + multiple - 1) // multiple * multiple).clamp(max=len(table) - 1)]


def total_cost(masks: Masks, tables: CostTables) -> float:
    """Add up the cost of the kept units."""
    return sum(float(tables[name][int(mask.sum())]) for name, mask in masks.items())


def workload_of(model: PreTrainedModel, length: float | None, rows: int | None, mean_length: float) -> Workload:
    """Choose what cost is counted or measured for; None is the calibration rows' mean length, or as many rows as fit.

    Raises:
        InvalidOption: longer than the model reads, or no row.
    """
    if length is not None:
        require_range("sequence_length", length, low=SEQUENCE_LENGTH.low, high=most_tokens(model.config))
    if rows is not None:
        BATCH_SIZE.check(rows)
    length = length or mean_length
    return Workload(length, rows or rows_at_once(model, length))


def stored_in(workload: Workload, own: torch.dtype, stored: torch.dtype) -> Workload:
    """Say in which precision weights are stored, where it is another than their own."""
    return workload if own == stored else replace(workload, precision=str(stored).removeprefix("torch."))


CostTables = dict[str, Tensor]
"""Cost of keeping 0, 1, … units, `(units + 1,)` by site name; starts at 0 and never falls."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The share of the dense model's cost that may stay, in (0, 1]: one of `flops`, `params`, `latency`, `size`.

    FLOPs and parameters are those of the prunable sublayers (attention and FFN); embeddings, norms and task head are
    not counted. Latency is the measured time of the whole model, size that of the file of its weights, which may also
    be given with a unit.

    Raises:
        InvalidOption: no share or several are given, a share is outside (0, 1], or `round_to` is below 1.

    >>> Budget(flops=0.4).keep_fraction, Budget(size="45MB").asked
    (0.4, '45MB')
    """

    flops: float | None = None
    params: float | None = None
    latency: float | None = None
    size: float | str | None = None
    """Share of the file, or its size, such as `45MB` or `1.2GiB`."""
    round_to: int | None = None
    """Kept neurons of a site are a multiple of this, or all, or none; None for what is fast, see `multiple_of`."""
    uniform: bool = False
    """True for the same sizes in every layer: the smaller model is one of its own class, and loads as any other."""

    def __post_init__(self) -> None:
        given = self._given
        if len(given) != 1:
            raise InvalidOption(
                f"a budget needs exactly one of flops=…, params=…, latency=… or size=…, got {given or 'none'}"
            )
        ((name, value),) = given.items()
        cost = plugins.provided("costs").get(name)
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if isinstance(cost, HasUnit) and isinstance(value, str):
            cost.amount(value)
        elif not is_number or not 0 < float(value) <= 1:
            also = f", or give it with its unit, such as {cost.example}" if isinstance(cost, HasUnit) else ""
            shown = as_given(value) if isinstance(value, float) else repr(value)
            wrong = "outside (0, 1]" if is_number else "no number in (0, 1]"
            raise InvalidOption(f"`{name}={shown}` is {wrong}: it is the share to keep, 0.4 keeps 40 %{also}")
        ROUND_TO.check(self.round_to)
        if not isinstance(self.uniform, bool):
            raise InvalidOption(f"`uniform={self.uniform!r}` must be true or false")

    @classmethod
    def of(cls, cost: str, share: float | str, *, round_to: int | None = None) -> Budget:
        """Make the budget that keeps a share, or an amount, of the cost of that name."""
        shares: dict[str, Any] = {cost: share}
        return cls(**shares, round_to=round_to)

    @property
    def _given(self) -> dict[str, Any]:
        shares = {name: value for name, value in vars(self).items() if name not in ("round_to", "uniform")}
        return {name: value for name, value in shares.items() if value is not None}

    @property
    def cost(self) -> str:
        """Name of the cost: `flops`, `params`, `latency` or `size`."""
        return next(iter(self._given))

    @property
    def asked(self) -> str:
        """Write what was asked for as it is typed: a share or, with its unit, an amount."""
        value = self._given[self.cost]
        return value if isinstance(value, str) else f"{value:g}"

    @property
    def keep_fraction(self) -> float:
        """Share of the dense model's cost that may stay, in (0, 1].

        Raises:
            InvalidOption: an amount was asked for, which is a share of a model only: see `as_share`.
        """
        value = self._given[self.cost]
        if isinstance(value, str):
            raise InvalidOption(
                f"which share `{self.cost}={value}` is depends on the model: ask for a share, in (0, 1]"
            )
        return float(value)

    def as_share(self, structure: Structure, price: Callable[[str], Prices]) -> Budget:
        """Give the same budget as a share of a model's cost; `price` prices the model in the cost of a name.

        Raises:
            UnreachableTarget: the amount asked for cannot be reached; names those that can.
        """
        value, cost = self._given[self.cost], plugins.load("costs", self.cost)
        if not isinstance(value, str):
            return self
        shares: dict[str, Any] = {self.cost: cost.share(cost.amount(value), structure, price(self.cost))}
        return replace(self, **shares)


@dataclass(frozen=True)
class Prices:
    """Costs of a model's units, and of the whole model with some of them."""

    tables: CostTables
    whole: tuple[tuple[float, float], ...] = ()
    """Sums over the tables, rising, each with the cost of the whole model there; empty where that is the sum itself.

    So a measured cost counts what is no unit's, and that times do not quite add up. Of equal sums the last counts.
    """

    @property
    def total(self) -> float:
        """Cost of the dense model."""
        return self.of_sum(sum(float(table[-1]) for table in self.tables.values()))

    @property
    def floor(self) -> float:
        """Share of its cost that the model keeps without any unit."""
        return self._points[1][0] / self.total if self.whole else 0.0

    def of_sum(self, units: float) -> float:
        """Compute the cost of the whole model whose kept units cost `units` by the tables."""
        return float(np.interp(units, *self._points)) if self.whole else units

    def share_of(self, units: float) -> float:
        """Compute the share of the dense model's cost that stays where kept units cost `units` by the tables."""
        return self.of_sum(units) / self.total

    def kept(self, masks: Masks) -> float:
        """Compute the share of the dense model's cost that stays with some units."""
        return self.share_of(total_cost(masks, self.tables))

    def limit(self, share: float) -> float:
        """Compute what the kept units may cost by the tables, so that the whole model keeps a share of its cost.

        Raises:
            UnreachableTarget: the model takes more without any unit.
        """
        target = share * self.total
        if not self.whole:
            return target
        sums, costs = self._points
        if share < self.floor:
            raise UnreachableTarget(
                f"a share of {share:g} cannot be reached: without any head and neuron the model still takes "
                f"{self.floor:.1%} of what it takes now; ask for more than that"
            )
        return float(np.interp(target, costs, sums))

    @property
    def _points(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Sums, each once so that no limit exceeds its share, and the costs there."""
        sums, costs = zip(*dict(self.whole).items(), strict=True)
        return sums, costs


class Cost(Protocol):
    """A cost: it prices the units of each site of a model."""

    @property
    def description(self) -> str:
        """One line for `trimformer list`."""

    def prices(
        self,
        structure: Structure,
        workload: Workload,
        *,
        cache: MeasuredCache | None = None,
        progress: Progress | None = None,
    ) -> Prices:
        """Make the price tables of a model; a measurement is kept in the cache and shows its progress."""


@runtime_checkable
class MeasuredCost(Cost, Protocol):
    """A cost whose tables are measured; a pruned model is then measured as well."""

    def kept(
        self, dense: PreTrainedModel, pruned: PreTrainedModel, workload: Workload, progress: Progress | None = None
    ) -> float:
        """Measure the cost of a pruned model as a share of the dense one's."""


@runtime_checkable
class HasUnit(Cost, Protocol):
    """A cost that is asked for in a unit of its own as well as by a share."""

    @property
    def example(self) -> str:
        """An amount as it is asked for, such as `45MB`."""

    def amount(self, text: str) -> float:
        """Read an amount; a text that is none raises `InvalidOption`."""

    def share(self, amount: float, structure: Structure, prices: Prices) -> float:
        """Compute the share of the dense model's cost; one that no budget comes to raises `UnreachableTarget`."""


def kept_by_cost(prices: Callable[[str], Prices], priced: Collection[str], masks: Masks) -> dict[str, float]:
    """Compute the share of every cost that stays; of times and of the file, where they are priced already.

    Args:
        prices: gives those of a cost.
        priced: costs of which they are known.
        masks: what stays.
    """
    costs, asked_only = plugins.provided("costs"), (MeasuredCost, HasUnit)
    counted = [name for name, cost in costs.items() if name in priced or not isinstance(cost, asked_only)]
    return {name: prices(name).kept(masks) for name in counted}


def multiples_of(dense: Structure, round_to: int | None) -> dict[str, int]:
    """Give what kept neurons are to be a multiple of, by site with neurons.

    Args:
        dense: the model.
        round_to: as `Budget.round_to`.

    Raises:
        InvalidOption: no layer has so many neurons.
    """
    widest = max(site.units for site in dense)
    if round_to and round_to > widest:
        raise InvalidOption(f"`round_to={round_to}` is more than the {widest} units of the widest layer: try 8 or 64")
    return {name: multiple_of(units, round_to) for name, units in neurons_of(dense).items()}


def rounded_tables(tables: CostTables, multiples: Mapping[str, int]) -> CostTables:
    """Make units of some sites cost as the next multiple of them, so that every search keeps whole multiples."""
    return {name: rounded_table(table, multiples.get(name, 1)) for name, table in tables.items()}


def neurons_of(structure: Structure) -> dict[str, int]:
    """Give the units of the sites whose units are neurons."""
    return {site.name: site.units for site in structure if site.unit_width == 1 and not site.attends}
