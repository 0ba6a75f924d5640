"""Measured time of a training step: models taken in turn on the same batches, median and spread."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter

import torch
from transformers import PreTrainedModel

from trimformer.data.rows import Batch
from trimformer.judging.project import Project
from trimformer.judging.task import OwnLoss, Task
from trimformer.judging.training_facts import StepTime
from trimformer.observing.latency import quartiles
from trimformer.training.finetune import FineTuning, training_features
from trimformer.training.trainer import DEFAULTS, collator, to_device

TIMED, WARM_UP = 10, 2
"""Numbers of steps: those that are timed, after those that only warm up."""


def step_times(
    project: Project, models: Mapping[str, PreTrainedModel], options: FineTuning, *, seed: int = 0
) -> dict[str, StepTime]:
    """Time a training step (forward, backward, AdamW) of several models, on the same batches in turn.

    Args:
        project: gives the training rows.
        models: by name; they stay as they are.
        options: for the batch size.
        seed: of the choice of rows.

    Returns:
        Median and quartiles by name, from ten steps after two to warm up, or fewer where there are not enough rows.
    """
    count = int({**DEFAULTS, **options.arguments}["per_device_train_batch_size"])
    enough = replace(options, rows=(TIMED + WARM_UP) * count)
    features = training_features(project, enough, seed)
    batches = [features[start : start + count] for start in range(0, len(features), count)]
    collate = collator(project.model, project.tokenizer, project.task)
    learners = {name: _Learner(model, project.task) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for rows in project.progress(batches, "timing steps") if project.progress else batches:
        batch = collate(rows)
        for name, learner in learners.items():
            times[name].append(learner.step_ms(batch))
    measured = {name: values[WARM_UP:] or values for name, values in times.items()}
    return {name: StepTime(**quartiles(values), steps=len(values)) for name, values in measured.items()}


class _Learner:
    """A copy of a model that is trained; in mixed precision on a GPU, as fine-tuning is by default."""

    def __init__(self, model: PreTrainedModel, task: Task) -> None:
        self.model, self.task = copy.deepcopy(model).train(), task
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=float(DEFAULTS["learning_rate"]))

    def step_ms(self, batch: Batch) -> float:
        """Make one step on a batch, and give its milliseconds."""
        device = self.model.device
        on_gpu = device.type == "cuda"
        placed = to_device(batch, device)
        start = perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            loss = self.task.loss(self.model, placed) if isinstance(self.task, OwnLoss) else self.model(**placed).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if on_gpu:
            torch.cuda.synchronize(device)
        return 1000 * (perf_counter() - start)
