"""The facts of fine-tuning: how it went, how long it took, and how that compares with the dense model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimformer.judging.metrics import Metrics
from trimformer.observing.latency import Latency


@dataclass(frozen=True)
class StepTime:
    """Time of one training step in milliseconds: median, lower and upper quartile of `steps` timed ones."""

    median_ms: float
    low_ms: float
    high_ms: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """The facts of one training. Field names are the manifest's keys."""

    steps: int
    epochs: float | None
    losses: tuple[Mapping[str, float], ...]
    """`step` and `loss` wherever the loss was logged."""
    metric: str | None
    """Name of the metric on the guard rows that the best checkpoint was chosen by; None where none was chosen."""
    curve: tuple[Mapping[str, float], ...]
    """`step` and `value` of that metric at every judgement; step 0 is the model before training."""
    best_step: int | None
    stopped_early: bool
    precision: str
    device: str
    threads: int
    versions: Mapping[str, str]
    arguments: Mapping[str, Any]
    patience: int
    seed: int
    rows: int
    guard_rows: int
    seconds: float
    """Seconds of the training, with every judging while it lasted."""
    judging_seconds: float
    """Seconds of all judging, that of the model before training included."""
    resumed_at_step: int

    @property
    def training_seconds(self) -> float:
        """Seconds of training without judging."""
        return self.seconds - self.judging_seconds


@dataclass(frozen=True, kw_only=True)
class FineTuningFacts(TrainingFacts):
    """The facts of training the model that was made, and of what it is compared with."""

    new_head: tuple[str, ...]
    """Names of weights that started from random numbers."""
    before: Metrics | None
    """Metrics of the pruned model before its training; None where none are known."""
    step: Mapping[str, StepTime] | None = None
    """Time of a training step by model, `dense` and `finetuned`; None where it was not timed."""
    dense: TrainingFacts | None = None
    """The dense model's training; None where it was not fine-tuned as well."""

    @property
    def step_speedup(self) -> float | None:
        """Time of the dense model's training step divided by that of this one; None where it was not timed."""
        return self.step["dense"].median_ms / self.step["finetuned"].median_ms if self.step else None

    @property
    def dense_seconds(self) -> float | None:
        """Seconds of training the dense model, or those it would take by the time of a step; None if not known."""
        if self.dense is not None:
            return self.dense.training_seconds
        return None if self.step_speedup is None else self.training_seconds * self.step_speedup


@dataclass(frozen=True, kw_only=True)
class DynamicFacts:
    """The facts of a model that decides row by row what to compute."""

    rows: int
    """Evaluation rows that they are of."""
    flops_low: float
    """Share of FLOPs that is computed on the row of which least is; predictors counted, as always."""
    flops_high: float
    times: Mapping[str, Mapping[str, Latency]]
    """Measured time by rows at once, `1` and `32`, of real evaluation rows, by model."""


@dataclass(frozen=True, kw_only=True)
class RecipeFacts:
    """The facts of a recipe, a method that trains: what was done for the result, all of it."""

    seconds: Mapping[str, float]
    """Wall time by work, in order; of a training that serves several budgets, all of it."""
    cpu_seconds: Mapping[str, float]
    """The same as time of all threads of the (first) process."""
    shared_by: int
    """Number of budgets that these trainings served."""
    chosen: Mapping[str, Any]
    """What the recipe chose for this budget."""
    trainings: Mapping[str, TrainingFacts]
    """Facts of the trainings by stage."""
    dynamic: DynamicFacts | None = None
    """What only a model has that decides row by row."""
