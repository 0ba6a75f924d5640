"""The facts of fine-tuning: how it went, how long it took, and how that compares with the dense model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimformer.judging.metrics import Metrics


@dataclass(frozen=True)
class StepTime:
    """Milliseconds of one training step: median, and the quarters below and above which a quarter of them lie."""

    median_ms: float
    low_ms: float
    high_ms: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """Everything known of one training. Field names are the manifest's keys."""

    steps: int
    epochs: float | None
    losses: tuple[Mapping[str, float], ...]
    """`step` and `loss`."""
    metric: str | None
    """The best checkpoint was chosen by it, on the guard rows."""
    curve: tuple[Mapping[str, float], ...]
    """`step` and `value` of that metric; step 0 is the model before training."""
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
    """In all, judging included."""
    judging_seconds: float
    resumed_at_step: int

    @property
    def training_seconds(self) -> float:
        """Seconds of training without judging."""
        return self.seconds - self.judging_seconds


@dataclass(frozen=True, kw_only=True)
class FineTuningFacts(TrainingFacts):
    """A training of the model that was made, and what it is compared with."""

    new_head: tuple[str, ...]
    """Weights that started from random numbers."""
    before: Metrics | None
    """Metrics of the pruned model before."""
    step: Mapping[str, StepTime] | None = None
    """Of the models `dense` and `finetuned`."""
    dense: TrainingFacts | None = None
    """The dense model's training, where it was fine-tuned as well."""

    @property
    def step_speedup(self) -> float | None:
        """How many times as fast a training step is as one of the dense model; None where it was not timed."""
        return self.step["dense"].median_ms / self.step["finetuned"].median_ms if self.step else None

    @property
    def dense_seconds(self) -> float | None:
        """Seconds of training the dense model, or those it would take by the time of a step; None if not known."""
        if self.dense is not None:
            return self.dense.training_seconds
        return None if self.step_speedup is None else self.training_seconds * self.step_speedup
