"""The contract of a task: rows, how they become model inputs, and how a model is judged on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.rows import Batch, Features, Split
from trimformer.judging.metrics import Metrics
from trimformer.progress import Progress


class Task(Protocol):
    """A task: its rows, how they become model inputs, and how a model is judged on them.

    A task file provides one object per public task name: `PROVIDES = {"sst2": Glue(…), …}`.
    """

    @property
    def description(self) -> str:
        """One line for `trimformer list`."""

    @property
    def auto_class(self) -> str | None:
        """Name of the transformers auto class that loads its models; None: the class named in the checkpoint."""

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the rows of one split from a folder, one file, or (None) the hub."""

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode rows for calibration, as unpadded features; one row may give several of them (QA windows).

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
    """Further methods of a task whose models have no loss of their own that could train them."""

    def training_rows(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
    ) -> list[Features]:
        """Encode rows for training: their model inputs, and whatever else `training_batch` reads."""

    def training_batch(self, features: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Pad some of these features to tensors, with whatever else `loss` reads."""

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Compute the loss of a batch, a scalar with a gradient."""
