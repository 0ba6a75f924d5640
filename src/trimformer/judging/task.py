"""The contract of a task: rows, how they become model inputs, and how a model is judged on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer import plugins
from trimformer.data.rows import Batch, Features, Split
from trimformer.errors import InvalidOption
from trimformer.judging.metrics import Metrics
from trimformer.model.checkpoint import load_config
from trimformer.model.modeling_trimformer import auto_class
from trimformer.progress import Progress


class Task(Protocol):
    """A task: its rows, how they become model inputs, and how a model is judged on them.

    A task file provides one object per public task name: `PROVIDES = {"sst2": …, …}`.
    """

    @property
    def description(self) -> str:
        """One line for `trimformer list`."""

    @property
    def auto_class(self) -> str | None:
        """Name of the transformers auto class that loads its models; None: the class named in the checkpoint."""

    @property
    def metrics(self) -> Sequence[str]:
        """Names of all metrics that it judges by, whatever the rows; it is asked before there are any."""

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


@runtime_checkable
class FitsModels(Protocol):
    """A further method of a task whose labels are named by the model."""

    def for_model(self, config: Any) -> Task:
        """Give the task as it is for a model of this config."""


@runtime_checkable
class FitsRows(Protocol):
    """A further method of a task whose new heads have the classes that occur in the rows."""

    def for_rows(self, rows: Dataset) -> Task:
        """Give the task as it is for these rows, before a model is trained on them."""


@runtime_checkable
class ChosenByRows(Protocol):
    """A further method of a task that a model's head alone does not choose."""

    def fits(self, source: str) -> bool:
        """Tell whether a folder or file has what this task judges by."""


def fitted_to(task: Task, config: Any) -> Task:
    """Give a task as it is for a model of this config."""
    return task.for_model(config) if isinstance(task, FitsModels) else task


AUTO = "auto"
"""The name of a task that stands for the one that the checkpoint's head tells."""
UNLABELLED = "text"
BY_HEAD = {
    "AutoModelForSequenceClassification": ("reranking", "classification"),
    "AutoModelForTokenClassification": ("token_classification",),
    "AutoModelForQuestionAnswering": ("question_answering",),
    "AutoModelForMultipleChoice": ("multiple_choice",),
    "AutoModelForMaskedLM": ("fill_mask",),
    "AutoModelForCausalLM": ("language_modeling",),
    "AutoModel": ("embedding",),
}
"""Tasks by the auto class that loads the checkpoint's model; the first that the rows fit is taken, else `text`."""


def chosen_task(name: str, model: str, data: str | None) -> str:
    """Give the name of a task: the one named, or for `auto` the one that the model's head and the rows tell.

    Args:
        name: of a task, or `auto`.
        model: a checkpoint folder or hub name.
        data: where rows come from; None if they are not the user's.

    Raises:
        CheckpointError: no checkpoint.
        DataError: rows that cannot be read.
    """
    if name != AUTO:
        return name
    head = auto_class((load_config(model).architectures or [""])[0])
    tasks = [task for task in BY_HEAD.get(head, ()) if task in plugins.names("tasks")]
    if data is None:
        return tasks[-1] if tasks else UNLABELLED
    return next((task for task in tasks if _fits(plugins.load("tasks", task), data)), UNLABELLED)


HEADS_TO_COME = ("", "AutoModel", "AutoModelForMaskedLM")
"""Auto classes of checkpoints that get a new head when they are trained for a task that needs one."""
TAUGHT_BY = ("token_classification", "multiple_choice", "question_answering")
"""Tasks whose rows no other task has; the next ones share columns, so that rows may fit several."""
TAUGHT_BY_SHARED = ("reranking", "embedding", "classification")


def trained_task(name: str, model: str, data: str | None, *, new_head: bool = False) -> str:
    """Give the name of the task to train a model on: the one named, or for `auto` by its head, and else by the rows.

    Args:
        name: of a task, or `auto`.
        model: a checkpoint folder or hub name.
        data: where rows come from; None if they are not the user's.
        new_head: whether the model gets a new head, so that its own tells nothing.

    Raises:
        InvalidOption: a model without a head, and rows that fit several tasks, or none that are the user's; or rows
            without anything to learn.
        DataError: rows that cannot be read.
    """
    chosen = _trained_task(name, model, data, new_head=new_head)
    if chosen == UNLABELLED:
        raise InvalidOption(
            f"the rows of {data} have nothing to train {model} on: give labels, or say which column has them, such as "
            "`columns={'label': '…'}`"
        )
    return chosen


def _trained_task(name: str, model: str, data: str | None, *, new_head: bool) -> str:
    head = auto_class((load_config(model).architectures or [""])[0]) if name == AUTO else ""
    if name != AUTO or (head not in HEADS_TO_COME and not new_head):
        return chosen_task(name, model, data)
    if data is None:
        raise InvalidOption(f"{model} has no head that tells a task: say which with `task`, such as `task=sst2`")
    found = taught_by(data)
    if len(found) > 1:
        raise InvalidOption(f"the rows of {data} fit {' and '.join(found)}: say with `task` what to train {model} for")
    return found[0] if found else chosen_task(name, model, data)


def taught_by(data: str) -> list[str]:
    """List the tasks that a model can be taught by the rows of some data: those whose labels they have."""
    own = [task for task in TAUGHT_BY if _fits(plugins.load("tasks", task), data)][:1]
    return own or [task for task in TAUGHT_BY_SHARED if _fits(plugins.load("tasks", task), data)]


def has_head(model: str, task: Task) -> bool:
    """Tell whether a checkpoint has the head of a task, for whatever classes; True where the task needs none."""
    return task.auto_class in (None, auto_class((load_config(model).architectures or [""])[0]))


def _fits(task: Task, data: str) -> bool:
    return not isinstance(task, ChosenByRows) or task.fits(data)
