"""Stages of a recipe: ordinary trainings by transformers' `Trainer`, with losses of the recipe's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from trimformer import processes
from trimformer.data.rows import Batch, Features
from trimformer.model.folders import whole_folder, write_text
from trimformer.training.checkpoints import is_whole, seal
from trimformer.training.trainer import Judge, TaskTrainer

Losses = Callable[[PreTrainedModel, Batch], Iterator[Tensor]]
"""Function from a model and a training batch to losses: their gradients add up to one step.

Each is differentiated before the next is computed, so that only one graph is in memory.
"""
PLAIN: Mapping[str, Any] = {"warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "lr_scheduler_type": "linear"}
"""Training arguments of the papers that retrain: AdamW with a linear decay, no warm-up, no weight decay, clip 1."""
WEIGHTS, FACTS, SPENT = "weights.safetensors", "facts.json", "spent.json"
FINISHED = "finished"


@dataclass(frozen=True)
class Group:
    """Parameters with a learning rate of their own."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float
    constant: bool = False
    """Whether the rate stays, in place of falling to zero."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training of a recipe: what is trained, on which rows, for how long, by which losses."""

    name: str
    model: PreTrainedModel
    """Trained in place."""
    losses: Losses
    features: Sequence[Features]
    """Encoded rows to train on, those of the course or more."""
    labelled: bool = True
    """False if the losses read no labels: batches are then plain inputs of the model."""
    epochs: float
    arguments: Mapping[str, Any]
    """Arguments of transformers' `TrainingArguments`; those that the user gives go before."""
    groups: Callable[[PreTrainedModel], Sequence[Group]] | None = None
    """Gives parameters rates of their own; None: all have the `learning_rate` of the arguments."""
    measure: Judge | None = None
    """Judges the model on rows set aside, where the training may stop early; None: the task's metrics."""
    patience: int = 0
    """As `FineTuning.patience`, where the user gives none: 0 trains to the end."""


@dataclass
class Spent:
    """Time that a piece of work took."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of all threads of this process."""


@contextmanager
def spending(before: Spent | None = None) -> Iterator[Spent]:
    """Measure the time of the block, beside what was spent before; filled in at its end."""
    spent = Spent(**vars(before)) if before else Spent()
    start, cpu = perf_counter(), process_time()
    try:
        yield spent
    finally:
        spent.seconds += perf_counter() - start
        spent.cpu_seconds += process_time() - cpu


class StageTrainer(TaskTrainer):
    """The Trainer of a stage: several losses a step, and rates by group.

    Several processes train on parts of each batch; gradients are averaged here, because a recipe may run a model in
    other ways than by its own forward pass.
    """

    def __init__(self, stage: Stage, **options: Any) -> None:
        super().__init__(model=stage.model, **options)
        self.stage = stage

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Go through the losses of a batch, and give their sum."""
        model.train()
        batch, bare, total = self._prepare_inputs(inputs), self.bare_model(), torch.zeros((), device=self.args.device)
        losses = self.stage.losses(bare, batch)
        while True:
            with self.compute_loss_context_manager():
                loss = next(losses, None)
            if loss is None:
                break
            part = loss / self.current_gradient_accumulation_steps
            self.accelerator.backward(part)
            total += part.detach()
        if processes.count() > 1 and self.accelerator.sync_gradients:
            _average(bare)
        return total

    def create_optimizer(self, *arguments: Any, **options: Any) -> Any:
        """Make AdamW with a rate for each group, or the usual optimizer where the stage has no groups."""
        if self.stage.groups is None or self.optimizer is not None:
            return super().create_optimizer(*arguments, **options)
        groups = [
            {"params": list(each.parameters), "lr": each.learning_rate} for each in self.stage.groups(self.bare_model())
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=self.args.weight_decay)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Let the rate of each group fall to zero or stay, or do as usual where the stage has no groups."""
        if self.stage.groups is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)

        def falling(step: int) -> float:
            return max(0.0, 1 - step / max(1, num_training_steps))

        rated: Any = optimizer or self.optimizer
        shapes = [(lambda _: 1.0) if each.constant else falling for each in self.stage.groups(self.bare_model())]
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(rated, shapes)
        self._created_lr_scheduler = True
        return self.lr_scheduler


def _average(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            processes.add_up(gradient)
            parameter.grad = gradient / processes.count()


class Ledger(TrainerCallback):
    """A callback that notes the time spent beside every checkpoint, so that a resumed run tells what all of it took."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, Spent()
        self.start, self.cpu = perf_counter(), process_time()

    def resume(self) -> Spent:
        """Read what was spent until the last checkpoint; nothing where there is none."""
        file = self.folder / SPENT
        self.before = Spent(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else Spent()
        return self.before

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write what was spent so far."""
        now = Spent(
            self.before.seconds + perf_counter() - self.start, self.before.cpu_seconds + process_time() - self.cpu
        )
        if processes.is_first():
            write_text(json.dumps(vars(now)), self.folder / SPENT)


def keep_finished(folder: Path, model: PreTrainedModel, facts: Mapping[str, Any]) -> None:
    """Keep the weights and facts of a stage that is done, whole or not at all."""
    if not processes.is_first():
        return
    with whole_folder(folder / FINISHED) as new:
        new.mkdir()
        save_file({name: values.detach().cpu().clone() for name, values in model.state_dict().items()}, new / WEIGHTS)
        (new / FACTS).write_text(json.dumps(facts, default=str), encoding="utf-8")
        seal(new)


def read_finished(folder: Path, model: PreTrainedModel) -> dict[str, Any] | None:
    """Give a model the weights of a stage that an interrupted run has done, and its facts; None if it was not done."""
    finished = folder / FINISHED
    if not is_whole(finished):
        return None
    model.load_state_dict(load_file(finished / WEIGHTS, device=str(model.device)))
    facts: dict[str, Any] = json.loads((finished / FACTS).read_text(encoding="utf-8"))
    return facts
