"""The nouns of the package, and the contracts that the plug-in folders fulfil.

Axis names used in shapes everywhere: `batch` sequences, `tokens` (padding excluded unless said), `width` of the
residual stream, `units` of a site, `unit_width` numbers per unit, `features = units * unit_width`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from trimformer.errors import InvalidOption, UnreachableTarget, require_range

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trimformer.cache import MeasuredCache
    from trimformer.job import Calibration, Job
    from trimformer.structure import Structure

Split = Literal["train", "validation"]
Backward = Literal["none", "by block", "whole model"]
Scores = dict[str, Tensor]
"""Importance per unit, by site name; higher = keep."""
Masks = dict[str, Tensor]
"""Bool per unit, by site name; True = keep."""
CostTables = dict[str, Tensor]
"""Cost of keeping 0, 1, … units, `(units + 1,)` by site name; starts at 0 and never falls."""
Measured = dict[str, Tensor]
"""What a method measured before any budget was known, by name; safe to store and to reuse for other budgets."""
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""What a model is given; labels never are."""
LABELS = ("labels", "start_positions", "end_positions")
"""What a row may also have, for those who ask for labels: a class or number, or where an answer begins and ends."""
Features = Mapping[str, Any]
"""One encoded, unpadded row: `input_ids`, `attention_mask`, … as lists of integers; `LABELS` only where asked for."""
Batch = dict[str, Tensor]
"""Padded model inputs, `(batch, length)` each, `attention_mask` included; never labels."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much of the dense model's cost may stay; exactly one of `flops`, `params`, `latency`, a share in (0, 1].

    FLOPs and parameters are those of the prunable sublayers (attention and FFN); embeddings, norms and task head are
    not counted. Latency is the measured time of the whole model.

    Raises:
        InvalidOption: no share or several are given, a share is outside (0, 1], or `round_to` is below 1.

    >>> Budget(flops=0.4).keep_fraction
    0.4
    """

    flops: float | None = None
    params: float | None = None
    latency: float | None = None
    round_to: int = 1
    """Kept neurons of a site are a multiple of this, or all, or none; some hardware is faster so."""
    uniform: bool = False
    """The same sizes in every layer: the smaller model is one of its own class, and loads as any other."""

    def __post_init__(self) -> None:
        given = self._given
        if len(given) != 1:
            raise InvalidOption(f"a budget needs exactly one of flops=…, params=… or latency=…, got {given or 'none'}")
        ((name, value),) = given.items()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise InvalidOption(f"budget {name}={value!r} is outside (0, 1]: it is the share to keep, 0.4 keeps 40 %")
        require_range("round_to", self.round_to, low=1)

    @classmethod
    def of(cls, cost: str, share: float, *, round_to: int = 1) -> Budget:
        """The budget that keeps a share of the cost of that name."""
        shares: dict[str, Any] = {cost: share}
        return cls(**shares, round_to=round_to)

    @property
    def _given(self) -> dict[str, Any]:
        shares = {name: value for name, value in vars(self).items() if name not in ("round_to", "uniform")}
        return {name: value for name, value in shares.items() if value is not None}

    @property
    def cost(self) -> str:
        """Name of the cost: `flops`, `params` or `latency`."""
        return next(iter(self._given))

    @property
    def keep_fraction(self) -> float:
        """Share of the dense model's cost that may stay, in (0, 1]."""
        return float(self._given[self.cost])


@dataclass(frozen=True)
class Metric:
    """One evaluated number, with what it was measured on."""

    value: float
    sample_size: int
    low: float
    high: float
    """95 % bootstrap interval over rows."""


Metrics = dict[str, Metric]
"""By metric name; the first is the one the task is judged by. Higher is better, except `kl` and `squared_distance`."""


@dataclass
class PruningResult:
    """What `prune` returns: the pruned model, and every fact a person would ask for."""

    model: PreTrainedModel
    masks: Masks
    manifest: dict[str, Any] = field(default_factory=dict)


class Method(Protocol):
    """A pruning method: a frozen, keyword-only dataclass whose fields are its options."""

    measured_by: ClassVar[tuple[str, ...]]
    """Names of the options that `measure` reads: with these the same, what it measured can be reused."""
    needs_labels: ClassVar[bool]
    """Whether `calibration.labels` is read; only then are there any."""

    @property
    def backward(self) -> Backward:
        """How far gradients go at a time: they take memory."""

    def measure(self, calibration: Calibration) -> Measured:
        """What no budget enters, and so serves every budget; empty if there is nothing."""

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Decide the masks, and cut and tune `job.student` accordingly; `job.dense` stays as it is."""


class Task(Protocol):
    """Rows, how they become model inputs, and how a model is judged on them.

    A task file provides one object per public task name: `PROVIDES = {"sst2": Glue(…), …}`.
    """

    @property
    def description(self) -> str:
        """One line for `trimformer list`."""

    @property
    def auto_class(self) -> str | None:
        """Name of the transformers auto class that loads its models; None: the class named in the checkpoint."""

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Rows of one split from a folder, one file, or (None) the hub."""

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Rows -> features for calibration. One row may give several features (QA windows).

        Labels are left out; with `labels` each feature has some of `LABELS`, or a `LabelError` says why it cannot.
        """

    def evaluate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        *,
        dense: PreTrainedModel | None = None,
        max_length: int | None = None,
        progress: Progress | None = None,
    ) -> Metrics:
        """Judge a model on rows; `dense` is given where the metric compares with the dense model."""


@runtime_checkable
class OwnLoss(Protocol):
    """What a task has besides, where its models' own loss cannot train them."""

    def training_rows(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
    ) -> list[Features]:
        """Rows -> features for training, with `input_ids` and whatever else `training_batch` reads."""

    def training_batch(self, features: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Some of these features -> padded tensors, with whatever else `loss` reads."""

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """The loss of a batch, a scalar with a gradient."""


@dataclass(frozen=True)
class Workload:
    """What a model is used on: what its cost is counted or measured for."""

    sequence_length: float
    """Mean number of tokens of a sequence."""
    batch_size: int = 32


@dataclass(frozen=True)
class Prices:
    """What the units of a model cost, and what the whole model costs with some of them."""

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
        """Cost of the whole model whose kept units cost `units` by the tables."""
        return float(np.interp(units, *self._points)) if self.whole else units

    def limit(self, share: float) -> float:
        """What the kept units may cost by the tables, so that the whole model keeps a share of its cost.

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
    """What the units of each site cost."""

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
        """Price tables of a model; a measurement is kept in the cache and shows its progress."""


@runtime_checkable
class MeasuredCost(Cost, Protocol):
    """A cost whose tables are measured, and so are results."""

    def kept(
        self, dense: PreTrainedModel, pruned: PreTrainedModel, workload: Workload, progress: Progress | None = None
    ) -> float:
        """Measured cost of a pruned model against that of the dense one."""


Progress = Callable[[Sequence[Any], str], Any]
"""Wraps a sequence to show a bar while it is walked: `for batch in progress(batches, "calibrating")`."""
