"""Mask tuning: masks by the Fisher information of the labels' loss, exchanged within sublayers, and rescaled.

Every unit is judged by the squared derivative of the task's loss with respect to its mask. The best split of the budget
between heads and neurons is searched; within each sublayer, units are exchanged where they matter together; and what is
kept is scaled so that the model follows one that is pruned half-way.

Needs labels. One forward and backward pass of the dense model, and a walk through dense model and student; memory for
one number a unit and mini-batch, and features² for one site.

Source: Kwon et al.: A Fast Post-Training Pruning Framework for Transformers (NeurIPS 2022), arXiv 2204.09656.
Differs from the paper and the authors' code: mini-batches are drawn for themselves, so that masks do not depend on how
rows are batched; a split may have no head at all, and none exceeds the budget; latency is read off a table like every
cost, with no search of its own; a sublayer whose scales are refused does not end the scaling of those above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trimformer.errors import require_range
from trimformer.model.sites import Masks, Scores
from trimformer.observing.calibration import Calibration, SeenBackward, Sums
from trimformer.observing.measurements import Measured, Measurement
from trimformer.observing.predictions import predictions, task_loss
from trimformer.pruning.choose.allocation import best_split, rearranged
from trimformer.pruning.choose.scoring import mask_gradients
from trimformer.pruning.contract import Backward, Effort, Job
from trimformer.pruning.refit.rescaling import cut_and_rescale, teacher_job


@dataclass(frozen=True, kw_only=True)
class MaskGradients(Measurement):
    """Gradients of the masks of one site."""

    gradients: Tensor
    """Derivative of each mini-batch's mean loss with respect to the masks, `(minibatches, units)`."""


@dataclass(frozen=True, kw_only=True)
class Exchanged(Measurement):
    """Mask of one site after units were exchanged."""

    mask: Tensor
    """`(units,)`, True = keep."""


@dataclass(frozen=True, kw_only=True)
class MaskTuning:
    """Options of Mask-Tuning."""

    measured_by: ClassVar[tuple[str, ...]] = ("minibatch",)
    measurement: ClassVar[type[Measurement] | None] = MaskGradients
    needs_labels: ClassVar[bool] = True
    removes: ClassVar[str | None] = None
    backward: ClassVar[Backward] = "whole model"
    effort: ClassVar[Effort] = Effort(measuring=2.2, pruning=3.7)

    minibatch: int = 32
    """Sequences, drawn at random, whose gradients are averaged before they are squared; at least 1."""
    rearrange: bool = True
    """Exchange units within sublayers."""
    tune: bool = True
    """Rescale the kept units."""
    damping: float = 0.001
    """Of the rescaling: pull of the scales towards 1, relative to the mean diagonal of their system; at least 0."""

    def __post_init__(self) -> None:
        require_range("minibatch", self.minibatch, low=1)
        require_range("damping", self.damping)

    def measure(self, calibration: Calibration) -> dict[str, MaskGradients]:
        """Differentiate each mini-batch's mean loss with respect to the masks of every site."""
        dense, sites = calibration.dense, calibration.dense.occupied
        drawn = drawn_minibatches(calibration.sequences, self.minibatch, calibration.seed)
        sizes = drawn.bincount().double()[:, None]
        owners = calibration.share(calibration.by_row(drawn))
        batches, labels = calibration.share(calibration.batches), calibration.share(calibration.labels or [])

        def loss(number: int) -> Tensor:
            predicted = predictions(dense.model(**batches[number]), batches[number], dense.model)
            return task_loss(predicted, labels[number]).sum()

        def add(sums: Sums, seen: SeenBackward) -> None:
            own = mask_gradients(*seen.by_sequence, seen.site.units)
            sums["gradients"].index_add_(0, owners[seen.number], own.double().cpu())

        found = calibration.collect(
            sites,
            lambda site: {"gradients": torch.zeros(len(sizes), site.units, dtype=torch.float64)},
            gradients=add,
            loss=loss,
            description="measuring gradients",
        )
        return {name: MaskGradients(gradients=sums["gradients"] / sizes) for name, sums in found.items()}

    def worth(self, job: Job, measured: Measured) -> Scores:
        """Give every unit its squared mask gradients."""
        return _scores(job, measured)

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Search the masks, exchange units within sublayers, cut, and rescale."""
        masks = _searched(job, measured)
        if self.rearrange:
            exchanged = job.by_site(
                job.dense.occupied,
                Exchanged,
                lambda site: Exchanged(
                    mask=rearranged(
                        masks[site.name], measured[site.name].gradients, job.bounds.protected.get(site.name)
                    )
                ),
                "rearranging",
            )
            masks |= {name: found.mask for name, found in exchanged.items()}
        teacher = _searched(teacher_job(job), measured) if self.tune else None
        cut_and_rescale(job, masks, teacher, damping=self.damping)
        return masks


def drawn_minibatches(sequences: int, size: int, seed: int) -> Tensor:
    """Draw the mini-batch of each sequence, `(sequences,)`: of at most `size`, as equal as can be, however batched."""
    count = -(-sequences // size)
    owners = torch.empty(sequences, dtype=torch.long)
    owners[torch.randperm(sequences, generator=torch.Generator().manual_seed(seed))] = (
        torch.arange(sequences) * count // sequences
    )
    return owners


def _scores(job: Job, measured: Measured) -> Scores:
    """Score all units by `Σ_b (∂L_b / ∂m_u)²` over mini-batches."""
    return {
        site.name: measured[site.name].gradients.square().sum(0) if site.units else torch.zeros(0) for site in job.dense
    }


def _searched(job: Job, measured: Measured) -> Masks:
    """Find the masks of the best split by the scores."""
    scores = _scores(job, measured)
    heads, neurons = (
        {site.name: scores[site.name] for site in job.dense if site.attends is attends} for attends in (True, False)
    )
    return best_split(heads, neurons, job.costs, job.limit, job.bounds)


PROVIDES = {"mask_tuning": MaskTuning}
