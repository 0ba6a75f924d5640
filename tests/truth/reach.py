"""How these tests reach what is inside the package: where an inner name changes, only this file does."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from trimformer import Pruner
from trimformer.data.rows import Batch
from trimformer.methods.kprune import KPrune, _Teacher
from trimformer.model.sites import Masks, Scores
from trimformer.model.structure import read_structure
from trimformer.observing.measurements import Measured
from trimformer.observing.predictions import Predictions, predictions
from trimformer.observing.watching import frozen
from trimformer.pruning.baseline import Baseline
from trimformer.pruning.contract import Job
from trimformer.pruning.refit.walk import Walk


def knowledge(model: PreTrainedModel, batches: list[Batch], below: Masks, **options: Any) -> Scores:
    """K-prune's scores of all sites above those of `below`, on a student that was cut there and not refitted."""
    pruner = Pruner(model, batches, method="kprune", options=options)
    dense, student = pruner.calibration.dense, read_structure(copy.deepcopy(model))
    costs = pruner.prices("flops").tables
    job = Job(dense, batches, 0, pruner.calibration.progress, student=student, costs=costs, limit=0.0)
    method: KPrune = pruner.method
    with frozen(dense.model), frozen(student.model):
        walk = Walk(job, "")
        for stop in walk:
            if stop.site.name not in below:
                return method.knowledge(job, walk.student, _Teacher(walk), student.sites[len(below) :])
            stop.cut(below[stop.site.name])
    raise AssertionError("a site must be left to score")


@dataclass(frozen=True, kw_only=True)
class _Scored(Baseline):
    """A method that keeps the units of highest given score, and cuts and refits as every baseline."""

    given: Any = None

    def scores(self, job: Job, measured: Measured) -> Scores:
        return self.given


def scored_pruner(model: PreTrainedModel, data: Any, scores: Scores, *, tune: bool) -> Pruner:
    pruner = Pruner(model, data, method="random", calibration_tokens=None)
    pruner.method = _Scored(given=scores, tune=tune)
    return pruner


def measured(pruner: Pruner, site: str, name: str) -> Tensor:
    """One tensor of what a method measured of a site."""
    values: Tensor = getattr(pruner.measured[site], name)
    return values


def give_measured(pruner: Pruner, by_site: dict[str, dict[str, Tensor]]) -> None:
    """Let a pruner work with these numbers in place of those that it would measure."""
    kind = pruner.method.measurement
    assert kind is not None
    pruner.measured = {site: kind(**given) for site, given in by_site.items()}


def deep(value: Any) -> Any:
    """A copy in plain containers of whatever a method measured: dicts, tuples and tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: deep(part) for key, part in value.items()}
    if is_dataclass(value):
        return {field.name: deep(getattr(value, field.name)) for field in fields(value)}
    return tuple(deep(part) for part in value) if isinstance(value, (list, tuple)) else value


def predicted(output: Any, batch: Batch, model: PreTrainedModel) -> Predictions:
    """A model's output in the form that losses and divergences read."""
    return predictions(output, batch, model)
