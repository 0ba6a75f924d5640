"""Polish: prune without labels, then let what is left learn from the dense model, end to end.

The smaller model is trained to predict what the dense model predicts, and to have its hidden states, on all text there
is, and on varied text in half of the steps; no label is looked at. After every pass the distance from the dense model
is measured on rows set aside: training stops where it no longer falls, and the best weights are kept, those before any
training among them. Memory is that of training the smaller model, and of the dense model's forward pass.

Source: knowledge distillation, Hinton et al. (arXiv 1503.02531), with hidden states as in DynaBERT (arXiv 2004.04037),
each as a share of the dense model's own size. That early stopping sees no labels, and that no dropout disturbs the
student, is ours.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer import processes
from trimformer.data.batches import MAX_ROWS, token_mask
from trimformer.data.rows import Batch
from trimformer.data.varying import Words, can_vary
from trimformer.errors import require_range
from trimformer.judging.guard import by_the_dense
from trimformer.judging.metrics import DISTANCES, LOWER_IS_BETTER, Metrics
from trimformer.model.folders import write_text
from trimformer.observing.predictions import divergence
from trimformer.pruning.budget import Budget
from trimformer.pruning.method_options import check_needs_no_labels
from trimformer.pruning.parameters import DEFAULT_METHOD
from trimformer.training.distillation import Shown, relative_hidden_loss
from trimformer.training.recipe import Course, Left, Start, inputs_of
from trimformer.training.stages import Stage
from trimformer.training.step_time import now
from trimformer.training.trainer import to_device

IN_VAIN = (
    "no pass brought the model nearer to the original, so its weights are those before polishing: "
    "give more rows, or lower `learning_rate`"
)
TIMED_STEPS = 3
"""Batches that tell how long a step takes, after one to warm up."""
AS_THEY_ARE = 0.5
"""Share of the batches that are not varied."""
MOST_SEEDS = 2**31
ARGUMENTS: Mapping[str, Any] = {"weight_decay": 0.0, "warmup_steps": 0.05, "lr_scheduler_type": "cosine"}


@dataclass(frozen=True, kw_only=True)
class Polish:
    """Options of the pruning, and of the training that follows."""

    starts_from: ClassVar[Start] = "finetuned"
    needs_labels: ClassVar[bool] = False
    costs: ClassVar[tuple[str, ...]] = ("flops", "params")

    method: str = DEFAULT_METHOD
    """What prunes: a method that needs no labels."""
    calibration_tokens: int = 20000
    """Tokens of the rows that it looks at; at least 1."""
    minutes: float = 10.0
    """Longest time to train for each budget, by the time of the first steps; above 0."""
    epochs: float = 5.0
    """Most passes over the training rows; above 0."""
    learning_rate: float = 2e-4
    """Highest learning rate; above 0."""
    hidden: float = 1.0
    """Weight of the hidden states beside the predictions; at least 0."""
    batch_size: int = 32
    """Rows in a step; at least 1."""

    def __post_init__(self) -> None:
        for name in ("calibration_tokens", "batch_size"):
            require_range(name, getattr(self, name), low=1)
        for name in ("minutes", "epochs", "learning_rate"):
            require_range(name, getattr(self, name), low_included=False)
        require_range("hidden", self.hidden)
        check_needs_no_labels(self.method, DEFAULT_METHOD)

    def make(self, course: Course, budgets: Sequence[Budget]) -> Iterator[Left]:
        """Prune and polish, budget by budget."""
        pruner = None
        for budget in budgets:
            pruning, polishing = (f"{work}-{budget.cost}-{budget.asked}" for work in ("pruning", "polishing"))
            with course.doing(pruning):
                pruner = pruner or course.project.pruner(
                    method=self.method,
                    calibration_tokens=self.calibration_tokens,
                    sequence_length=course.sequence_length,
                    seed=course.seed,
                    judged=False,
                )
                small = pruner.prune(budget)
            lesson = _Lesson(course, small.model, self.hidden)
            start = copy.deepcopy(small.model.state_dict())
            course.train(
                Stage(
                    name=polishing,
                    model=small.model,
                    losses=lesson.losses,
                    features=course.unlabelled,
                    labelled=False,
                    epochs=self._epochs(course, lesson, polishing),
                    arguments={
                        **ARGUMENTS,
                        "learning_rate": self.learning_rate,
                        "per_device_train_batch_size": self.batch_size,
                    },
                    measure=lesson.measure,
                    patience=1,
                )
            )
            training = course.trainings[polishing]
            before, best = _first_and_nearest(training)
            in_vain = best["step"] == 0
            if in_vain:
                small.model.load_state_dict(start)
                training["best_step"] = 0
            yield Left(
                model=small.model,
                masks=small.masks,
                kept=small.facts.kept,
                chosen={
                    f"{training['metric']}_{when}": at["value"] for when, at in (("before", before), ("after", best))
                },
                work=(pruning, polishing),
                warnings=(*small.facts.warnings, *([IN_VAIN] if in_vain else [])),
            )

    def _epochs(self, course: Course, lesson: _Lesson, name: str) -> float:
        """Compute the passes that the time allows; a resumed run takes those that it began with."""
        file = course.folder / f"{name}.json"
        if course.resume and file.exists():
            return float(json.loads(file.read_text(encoding="utf-8"))["epochs"])
        steps = -(-len(course.unlabelled) // self.batch_size)
        allowed = 60 * self.minutes / (steps * processes.agreed_number(lesson.seconds_a_step(self.batch_size)))
        epochs = min(self.epochs, max(allowed, 1 / steps))
        course.folder.mkdir(parents=True, exist_ok=True)
        if processes.is_first():
            write_text(json.dumps({"epochs": epochs}), file)
        return epochs


class _Lesson:
    """Teaches one smaller model what the dense one does, and measures how near it comes."""

    def __init__(self, course: Course, student: PreTrainedModel, hidden: float) -> None:
        self.course, self.student, self.hidden = course, student, hidden
        self.teacher = course.project.model
        self.near = replace(by_the_dense(course.project), progress=False)

    def losses(self, model: PreTrainedModel, batch: Batch) -> Iterator[Tensor]:
        """`KL(dense ‖ student)`, or the squared distance of numbers, and the relative distance of hidden states."""
        model.eval()  # the Trainer turns dropout on; the teacher's answers are exact
        batch = self._varied(inputs_of(batch))
        with torch.no_grad():
            known = Shown.of(self.teacher, self.teacher(**batch, output_hidden_states=True), batch)
        student = Shown.of(model, model(**batch, output_hidden_states=True), batch)
        alike = len(student.hidden) == len(known.hidden)
        pairs = list(zip(student.hidden[1:], known.hidden[1:], strict=True)) if alike else []
        near = self.hidden * relative_hidden_loss(pairs, token_mask(batch)) if pairs else 0.0
        yield divergence(known.predicted, student.predicted).mean() + near

    @cached_property
    def _words(self) -> Words | None:
        """Words of all rows, to vary them by; None where the rows are not of text alone."""
        rows, collate = self.course.unlabelled, self.course.collate(labelled=False)
        batches = [inputs_of(collate(rows[at : at + MAX_ROWS])) for at in range(0, len(rows), MAX_ROWS)]
        return Words.of(batches) if can_vary(batches) else None

    def _varied(self, batch: Batch) -> Batch:
        """Vary about half of the batches."""
        if self._words is None or torch.rand(()) < AS_THEY_ARE:
            return batch
        generator = torch.Generator().manual_seed(int(torch.randint(MOST_SEEDS, ())))
        return self._words.vary(batch, generator)

    def measure(self, model: PreTrainedModel) -> Metrics:
        """Measure how near a model is to the dense one on the rows set aside, by the distance if there is one."""
        found = self.near.evaluate(model, self.near.guard_rows)
        name = next((name for name in DISTANCES if name in found), next(iter(found)))
        return {name: found[name]}

    def seconds_a_step(self, batch_size: int) -> float:
        """Time a few steps on a copy of the student."""
        model = copy.deepcopy(self.student).requires_grad_(requires_grad=True)
        rows, collate, times = self.course.unlabelled, self.course.collate(labelled=False), list[float]()
        for step in range(min(1 + TIMED_STEPS, -(-len(rows) // batch_size))):
            batch = to_device(collate(rows[step * batch_size : (step + 1) * batch_size]), model.device)
            start = now(model.device)
            for loss in self.losses(model, batch):
                loss.backward()
            times.append(now(model.device) - start)
        return median(times[1:] or times)


def _first_and_nearest(training: Mapping[str, Any]) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Give the judgement before training, and the nearest of all, the earliest of equals, from a stage's facts."""
    curve, sign = training["curve"], 1 if training["metric"] in LOWER_IS_BETTER else -1
    return curve[0], min(curve, key=lambda judged: sign * judged["value"])


PROVIDES = {"polish": Polish}
