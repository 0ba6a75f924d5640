"""Measured time of a training step: models taken in turn on the same batches, median and spread."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback

from trimformer.judging.project import Project
from trimformer.judging.training_facts import StepTime
from trimformer.model.claims import scratch_folder
from trimformer.observing.latency import quartiles
from trimformer.training.finetune import FineTuning, training_features
from trimformer.training.trainer import DEFAULTS, IN_ORDER, TaskTrainer, collator, training_arguments

TIMED, WARM_UP = 10, 2
"""Numbers of steps: those that are timed, after those that only warm up."""
STEPS_A_TURN = 4
"""Steps of one model before it is another's turn: the Trainer takes longer to begin than a small model for a step."""


def step_times(
    project: Project, models: Mapping[str, PreTrainedModel], options: FineTuning, *, seed: int = 0
) -> dict[str, StepTime]:
    """Time a training step of several models, in fine-tuning's own `Trainer`, on the same batches in turn.

    Args:
        project: gives the training rows.
        models: by name; they stay as they are.
        options: for the batch size.
        seed: of the choice of rows.

    Returns:
        By name, from ten steps after two to warm up, or fewer where there are not enough rows.
    """
    count = int({**DEFAULTS, **options.arguments}["per_device_train_batch_size"])
    enough = replace(options, rows=(TIMED + WARM_UP) * count)
    features = training_features(project, enough, seed)
    collate = collator(project.model, project.tokenizer, project.task)
    batches = [collate(features[start : start + count]) for start in range(0, len(features), count)]
    turns = [batches[start : start + STEPS_A_TURN] for start in range(0, len(batches), STEPS_A_TURN)]
    clocks = {name: _Clock() for name in models}
    with scratch_folder() as scratch:
        trainers = [_trainer(project, model, clocks[name], str(scratch), seed) for name, model in models.items()]
        for turn in project.stages(turns, "timing steps"):
            for trainer in trainers:
                trainer.train_dataset, trainer.args.max_steps = turn, len(turn)
                trainer.train()
    measured = {name: clock.times_ms[WARM_UP:] or clock.times_ms for name, clock in clocks.items()}
    return {name: StepTime(**quartiles(values), steps=len(values)) for name, values in measured.items()}


def _trainer(project: Project, model: PreTrainedModel, clock: TrainerCallback, folder: str, seed: int) -> TaskTrainer:
    """Make a trainer of a copy of a model, for a dataset of whole batches in their order."""
    whole = {"per_device_train_batch_size": 1, **IN_ORDER}
    settings = {**whole, "logging_strategy": "no", "save_strategy": "no"}
    return TaskTrainer(
        task=project.task,
        judge=None,
        model=copy.deepcopy(model),
        args=training_arguments(settings, folder=folder, device=model.device, seed=seed, metric=None, higher=False),
        data_collator=lambda batches: batches[0],
        callbacks=[clock],
    )


class _Clock(TrainerCallback):
    """A clock of every step, from before its forward pass to after the optimizer's update."""

    def __init__(self) -> None:
        self.times_ms: list[float] = []
        self.started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock: the batch is there."""
        self.started = now(args.device)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop it: the weights are updated."""
        self.times_ms.append(1000 * (now(args.device) - self.started))


def now(device: torch.device) -> float:
    """Read the time in seconds, once a GPU has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
