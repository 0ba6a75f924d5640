"""The nouns of the package, and the contracts that the plug-in folders fulfil.

Axis names used in shapes everywhere: `batch` sequences, `tokens` (padding excluded unless said), `width` of the
residual stream, `units` of a site, `unit_width` numbers per unit, `features = units * unit_width`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from torch import Tensor

from trimformer.errors import InvalidOption

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trimformer.job import Calibration, Job
    from trimformer.structure import Structure

Kind = Literal["head", "neuron"]
Split = Literal["train", "validation"]
Scores = dict[str, Tensor]
"""Importance per unit, by site name; higher = keep."""
Masks = dict[str, Tensor]
"""Bool per unit, by site name; True = keep."""
Measured = dict[str, Tensor]
"""What a method measured before any budget was known, by name; safe to store and to reuse for other budgets."""
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""What a model is given; labels never are."""
Features = Mapping[str, Any]
"""One encoded, unpadded row: `input_ids`, `attention_mask`, … as lists of integers."""
Batch = dict[str, Tensor]
"""Padded model inputs, `(batch, length)` each, `attention_mask` included; never labels."""


@dataclass(frozen=True)
class Site:
    """One sublayer as pruning sees it: producers -> units -> one consumer (the output projection).

    Paths are dotted and relative to the base model, so that they hold for every task head.
    """

    name: str
    kind: Kind
    block: int
    units: int
    unit_width: int
    producers: tuple[str, ...]
    consumer: str
    core: str | None = None
    """The module that is replaced when no unit is left (attention only)."""

    @property
    def features(self) -> int:
        """Width of the consumer's input: `units * unit_width`."""
        return self.units * self.unit_width


@dataclass(frozen=True)
class Architecture:
    """Where the sublayers of a model family are: dotted paths below one block.

    Covers blocks whose residual is normalised after each sublayer (post-norm), with separate query, key and value.
    """

    description: str
    blocks: str
    attention: str
    query_key_value: tuple[str, str, str]
    attention_output: str
    feed_forward: tuple[str, ...]
    feed_forward_output: str
    head_counts: Mapping[str, str]
    """Attributes of the attention module that cache a size, each with what it counts: `heads` or `features`."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much of the dense model's cost may stay; exactly one of the fields, a share in (0, 1].

    Costs are those of the prunable sublayers (attention and FFN); embeddings, norms and task head are not counted.

    Raises:
        InvalidOption: no field or several fields are given, or the share is outside (0, 1].

    >>> Budget(flops=0.4).keep_fraction
    0.4
    """

    flops: float | None = None
    params: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            names = " or ".join(f"{name}=…" for name in vars(self))
            raise InvalidOption(f"a budget needs exactly one of {names}, got {given or 'none'}")
        ((name, value),) = given.items()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise InvalidOption(f"budget {name}={value!r} is outside (0, 1]: it is the share to keep, 0.4 keeps 40 %")

    @property
    def cost(self) -> str:
        """Name of the cost: `flops` or `params`."""
        return next(name for name, value in vars(self).items() if value is not None)

    @property
    def keep_fraction(self) -> float:
        """Share of the dense model's cost that may stay, in (0, 1]."""
        return float(getattr(self, self.cost))


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
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
    ) -> list[Features]:
        """Rows -> features for calibration, labels left out. One row may give several features (QA windows)."""

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


class Cost(Protocol):
    """What one unit of each site costs."""

    @property
    def description(self) -> str:
        """One line for `trimformer list`."""

    def per_unit(self, structure: Structure, sequence_length: float) -> dict[str, float]:
        """Cost of one unit, by site name, at a mean sequence length in tokens."""


Progress = Callable[[Sequence[Any], str], Any]
"""Wraps a sequence to show a bar while it is walked: `for batch in progress(batches, "calibrating")`."""
