"""Fine-tuning: a model, dense or pruned, trained on a task's rows by transformers' `Trainer`.

Rows are kept in three parts: those trained on, those set aside to choose the best checkpoint by, and those whose
metric is reported.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerCallback

from trimformer.data.columns import select_rows
from trimformer.data.labels import in_model_order
from trimformer.data.rows import TOKENS, Features
from trimformer.errors import DataError, NumericalError, require_range
from trimformer.judging.metrics import LOWER_IS_BETTER, Metrics
from trimformer.judging.project import Project, without
from trimformer.judging.task import OwnLoss
from trimformer.model.limits import check_rows
from trimformer.model.manifest import versions
from trimformer.pruning.method_options import read_option
from trimformer.training.checkpoints import Sealing, newest_whole, step_of
from trimformer.training.trainer import (
    DEFAULTS,
    Bar,
    Judge,
    TaskTrainer,
    check_arguments,
    collator,
    is_masked,
    masked_loss,
    training_arguments,
)

LOGGER = logging.getLogger("trimformer")
MASKED_LOSS = "masked_loss"
LOWER = (*LOWER_IS_BETTER, MASKED_LOSS)
"""Metrics of which lower values are better."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Options of fine-tuning, checked when they are made.

    Raises:
        InvalidOption: an unknown name, or a value of the wrong type or range.

    >>> FineTuning(rows=3000, arguments={"learning_rate": 1e-4}).patience
    2
    """

    rows: int | None = None
    """Most rows to train on, drawn at random; at least 1, or None for all."""
    patience: int = 2
    """Judgements in a row without a better one after which training stops: one is made at every save, and the best
    checkpoint is returned. 0 trains to the end, judges nothing before, and sets no rows aside."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of transformers' `TrainingArguments`, by name, in place of those of `trainer.DEFAULTS`."""

    def __post_init__(self) -> None:
        if self.rows is not None:
            require_range("rows", self.rows, low=1)
        require_range("patience", self.patience)
        object.__setattr__(self, "arguments", check_arguments(self.arguments))

    @classmethod
    def from_text(cls, assignments: Mapping[str, str]) -> FineTuning:
        """Make options of text by name, as the command line has it: `rows`, `patience` and training arguments alike.

        Raises:
            InvalidOption: an unknown name, or a value of the wrong type or range.
        """
        own = {name: read_option(cls, name, assignments[name]) for name in _OWN & assignments.keys()}
        return cls(**own, arguments={name: value for name, value in assignments.items() if name not in own})


_OWN = {"rows", "patience"}


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model, and the facts of its training by the names of `TrainingFacts`."""

    model: PreTrainedModel
    facts: dict[str, Any]


def finetune(
    project: Project,
    options: FineTuning,
    folder: Path | str,
    *,
    seed: int = 0,
    resume: bool = False,
    say: Callable[[str], None] = LOGGER.info,
) -> FineTuned:
    """Train a copy of a project's model on its calibration rows, labelled where the loss needs labels.

    Where `options.patience` is set, the project needs guard rows (`Project.with_guard`): the best checkpoint is chosen
    by the task's metric on them. Evaluation rows are neither trained on nor looked at.

    Args:
        project: its model has the task's head, see `heads.load_to_train`.
        options: how to train.
        folder: for the Trainer's checkpoints.
        seed: of the choice and order of rows, and of dropout.
        resume: go on from the last whole checkpoint in the folder, if there is one.
        say: is told of a checkpoint that is damaged, in place of the package's log.

    Raises:
        LabelError: rows without labels, or with wrong ones.
        DataError: no rows to train on, or none to choose by.
        InvalidOption: training arguments that contradict each other.
        NumericalError: the training diverged.
    """
    guard = GuardJudge(project, project.model) if options.patience else None
    features = training_features(project, options, seed)
    model = copy.deepcopy(project.model)
    arguments = training_arguments(
        options.arguments,
        folder=str(folder),
        device=model.device,
        seed=seed,
        metric=guard.name if guard else None,
        higher=guard is not None and guard.name not in LOWER,
    )
    trainer = TaskTrainer(
        task=project.task,
        judge=guard,
        model=model,
        args=arguments,
        train_dataset=features,
        data_collator=collator(model, project.tokenizer, project.task),
        callbacks=_callbacks(project, options),
    )
    last = newest_whole(Path(folder), say) if resume else None
    start = perf_counter()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    seconds = perf_counter() - start
    trained = trainer.bare_model().eval()
    check_finite(trained)
    facts = facts_of(trainer, guard) | {
        "arguments": {**DEFAULTS, **options.arguments},
        "patience": options.patience,
        "seed": seed,
        "rows": len(features),
        "guard_rows": len(guard.guard_rows) if guard else 0,
        "seconds": seconds,
        "judging_seconds": guard.seconds if guard else 0.0,
        "resumed_at_step": step_of(last),
    }
    return FineTuned(trained, facts)


def training_features(project: Project, options: FineTuning, seed: int, *, labels: bool = True) -> list[Features]:
    """Encode the rows to train on, in random order, with labels where the loss needs them.

    Without `labels` they are plain inputs of the model, and no label is looked at. Rows with the tokens of an
    evaluation or guard row are left out.

    Raises:
        LabelError: rows without labels, or with wrong ones.
        DataError: no rows are left, or they have tokens that the model does not know.
    """
    task, rows = project.task, project.calibration_rows
    order = np.random.default_rng(seed).permutation(len(rows))[: options.rows]
    chosen = select_rows(rows, order)
    if labels and isinstance(task, OwnLoss):
        features = task.training_rows(chosen, project.tokenizer, project.max_length)
    else:
        labelled = labels and not is_masked(project.model)
        features = task.encode(chosen, project.tokenizer, project.max_length, labels=labelled)
        if labelled:
            features = in_model_order(features, getattr(task, "classes", ()), project.model.config)
    kept = without(features, project.held_out)
    if not kept:
        raise DataError("no rows to train on: none, or every row is also an evaluation row; give rows kept apart")
    check_rows([row for row in kept if TOKENS in row], project.tokenizer, project.model.config)
    return kept


def judge(project: Project, model: PreTrainedModel, rows: Dataset) -> Metrics:
    """Judge a model by the task's metrics, without the dense one; a masked language model on plain text by its loss."""
    if is_masked(model) and not isinstance(project.task, OwnLoss):
        features = project.task.encode(rows, project.tokenizer, project.max_length)
        return {MASKED_LOSS: masked_loss(model, project.tokenizer, features)}
    return project.task.evaluate(model, project.tokenizer, rows, max_length=project.max_length, progress=project.stages)


class GuardJudge:
    """A judge on the guard rows, which keeps its seconds in all, and the value that the model had at first."""

    def __init__(self, project: Project, model: PreTrainedModel, measure: Judge | None = None) -> None:
        """Judge by the task's metrics, or as `measure` does; first of all the model that is to be trained."""
        if project.guard_rows is None:
            raise DataError(
                "no rows are set aside to choose the best checkpoint by: use project.with_guard(), or `patience=0`"
            )
        self.project, self.guard_rows, self.seconds = replace(project, progress=False), project.guard_rows, 0.0
        self.measure = measure or (lambda model: judge(self.project, model, self.guard_rows))
        self.name, first = next(iter(self.measure(model).items()))
        self.first = first.value

    def __call__(self, model: PreTrainedModel) -> Metrics:
        """Judge a model, on the clock."""
        start = perf_counter()
        metrics = self.measure(model)
        self.seconds += perf_counter() - start
        return metrics


def _callbacks(project: Project, options: FineTuning) -> list[TrainerCallback]:
    shown: list[TrainerCallback] = [Bar(project.stages), Sealing()]
    return [*shown, EarlyStoppingCallback(options.patience)] if options.patience else shown


def facts_of(trainer: TaskTrainer, guard: GuardJudge | None) -> dict[str, Any]:
    """Tell how a training went, by the names of `TrainingFacts`."""
    arguments, state = trainer.args, trainer.state
    return {
        "steps": state.global_step,
        "epochs": state.epoch,
        "losses": [{"step": entry["step"], "loss": entry["loss"]} for entry in state.log_history if "loss" in entry],
        "metric": guard and guard.name,
        "curve": _curve(trainer, guard) if guard else [],
        "best_step": state.best_global_step if guard else state.global_step,
        "stopped_early": state.global_step < state.max_steps,
        "precision": "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else "float32",
        "device": str(arguments.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _curve(trainer: TaskTrainer, guard: GuardJudge) -> list[dict[str, float]]:
    """Collect the metric on the guard rows: before training, and at every save."""
    name = f"eval_{guard.name}"
    judged = [entry for entry in trainer.state.log_history if name in entry]
    return [{"step": 0, "value": guard.first}, *({"step": entry["step"], "value": entry[name]} for entry in judged)]


def check_finite(model: PreTrainedModel) -> None:
    """Refuse a model whose training diverged; raises `NumericalError`."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise NumericalError(f"the training diverged: {name} is NaN or infinite; lower `learning_rate`")
