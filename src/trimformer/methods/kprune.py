"""K-prune: knowledge-preserving pruning, sublayer by sublayer from the bottom.

For every sublayer: measure what each unit knows (how much the prediction, and how much the representation, would lose
without it), choose units for this sublayer in competition with all above, cut them, and re-solve the output
projection so that the residual stream is nearest to the dense model's.

Needs no labels. Runs the upper part of the model forward and backward once a sublayer; memory features² for one site,
and the hidden states at one boundary for dense model and student.

Source: Park, Choi, Kang: Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models (ICLR 2024),
arXiv 2308.03449.
Differs from the authors' code: gradients are squared per sequence (theirs: per batch of 32; `batch_fisher=True` brings
that back), so `lambda_rep` here is 32² times theirs; a head's knowledge is that of its own mask divided by its width
(theirs: the mean over its dimensions of per-dimension squares), so that the paper's `mu` means the same here;
the regression objective is the distance to the dense model's value; the least squares are in float64 and a singular
system is an error. Ours are the ridge and the intercept of the tuning (`ridge=0`, `intercept=false` is the paper's),
and the sampled Fisher as predictive knowledge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trimformer.errors import InvalidOption, require_range
from trimformer.model.sites import Masks, Scores, Site
from trimformer.observing.boundary import Boundary
from trimformer.observing.calibration import Calibration, SeenBackward, Sums
from trimformer.observing.measurements import Measured, Measurement
from trimformer.observing.predictions import Predictions, divergence, fisher_loss, predictions
from trimformer.observing.watching import frozen
from trimformer.pruning.budget import total_cost
from trimformer.pruning.choose.scoring import mask_gradients, output_energy, unit_second_moments
from trimformer.pruning.choose.search import keep_best
from trimformer.pruning.contract import Backward, Effort, Job
from trimformer.pruning.refit.walk import Stop, Walk


@dataclass(frozen=True, kw_only=True)
class KPrune:
    """Options of K-prune; symbols as in the paper."""

    measured_by: ClassVar[tuple[str, ...]] = ()
    measurement: ClassVar[type[Measurement] | None] = None
    needs_labels: ClassVar[bool] = False
    removes: ClassVar[str | None] = None
    backward: ClassVar[Backward] = "whole model"
    effort: ClassVar[Effort] = Effort(by_site=1.6)

    gamma: float = 2.0
    """Temperature of both softmaxes in the KL divergence; above 0."""
    mu: float = 64.0
    """Weight of a head's knowledge per dimension against a neuron's; above 0."""
    lambda_pred: float = 1.0
    """Weight of predictive knowledge; at least 0."""
    lambda_rep: float = 0.256
    """Weight of representational knowledge; at least 0. The authors' 2.5e-4 for gradients squared per batch of 32."""
    predictive: Literal["kl", "fisher"] = "kl"
    """Loss whose mask gradients are squared: KL to the dense model, or one whose gradients give the Fisher."""
    batch_fisher: bool = False
    """Square the mean gradient of each batch (the authors' code), not each sequence's."""
    one_shot: bool = False
    """Choose all masks at the dense model, in place of sublayer by sublayer (ablation)."""
    tune: bool = True
    """Knowledge-preserving weight-tuning."""
    ridge: float = 1e-2
    """Pull towards the dense weights, relative to the mean diagonal of the Gram matrix; at least 0."""
    intercept: bool = True
    """Also re-solve the bias of the output projection."""

    def __post_init__(self) -> None:
        for name in ("gamma", "mu"):
            require_range(name, getattr(self, name), low_included=False)
        for name in ("lambda_pred", "lambda_rep", "ridge"):
            require_range(name, getattr(self, name))
        if self.lambda_pred == self.lambda_rep == 0:
            raise InvalidOption("`lambda_pred` and `lambda_rep` are both 0: nothing would be measured; set one above 0")

    def measure(self, calibration: Calibration) -> Measured:
        """Measure nothing ahead: knowledge is measured on the student as pruned so far."""
        return {}

    def worth(self, job: Job, measured: Measured) -> Scores:
        """Give every unit its knowledge, as measured on the dense model, not per cost."""
        with frozen(job.dense.model), frozen(job.student.model):
            walk = Walk(job, "measuring knowledge")
            knowledge = self.knowledge(job, walk.student, _Teacher(walk), job.student.sites)
        return {site.name: knowledge[site.name] * job.unit_cost(site) for site in job.dense}

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Measure, search, cut and tune, sublayer by sublayer from the bottom up."""
        with frozen(job.dense.model), frozen(job.student.model):
            walk = Walk(job, "pruning sublayers")
            teacher = _Teacher(walk)
            at_once = self._chosen(walk, teacher) if self.one_shot else None

            def settle(stop: Stop) -> Tensor:
                chosen = at_once or self._chosen(walk, teacher)
                mask = stop.cut(chosen[stop.site.name])
                if self.tune:
                    stop.solve(stop.regression(), ridge=self.ridge, intercept=self.intercept)
                return mask

            return walk.settled(settle)

    def _chosen(self, walk: Walk, teacher: Callable[[int], Predictions]) -> Masks:
        """Choose the masks of all sites that are not settled yet, within what these leave of the limit."""
        job, left = walk.job, walk.job.limit
        for name, mask in walk.masks.items():
            left -= total_cost({name: mask}, job.costs)
        knowledge = self.knowledge(job, walk.student, teacher, job.student.sites[len(walk.masks) :])
        return keep_best(knowledge, job.costs, left, job.bounds)

    def knowledge(
        self, job: Job, student: Boundary, teacher: Callable[[int], Predictions], sites: Sequence[Site]
    ) -> Scores:
        """Score all units of some sites: `μ_kind / unit_width · (λ_pred K_pred + λ_rep K_rep) / cost`.

        K_pred(u) = 1/(2N) Σ_n (∂ KL_γ(p_T ‖ p_S) / ∂m_u)²_n       K_rep(u) = 1/tokens Σ_t ‖h_u(x_t) W_u‖² / d
        """
        occupied = [site for site in sites if site.units]
        scores: Scores = {site.name: torch.zeros(0) for site in sites}
        if occupied:
            found = job.on(job.student).collect(
                occupied,
                _no_knowledge,
                gradients=self._add_knowledge,
                loss=lambda number: self._loss(job, student, teacher, number),
            )
            scores |= {site.name: self._score(job, site, **found[site.name]) for site in occupied}
        return scores

    def _add_knowledge(self, sums: Sums, seen: SeenBackward) -> None:
        per_sequence = mask_gradients(*seen.by_sequence, seen.site.units)
        terms = per_sequence.mean(0, keepdim=True) if self.batch_fisher else per_sequence
        sums["squares"] += terms.double().square().sum(0).cpu()
        sums["moments"] += unit_second_moments(seen.rows.float(), seen.site.units).double().cpu()

    def _loss(self, job: Job, student: Boundary, teacher: Callable[[int], Predictions], index: int) -> Tensor:
        batch = student.batches[index]
        target = teacher(index) if self.predictive == "kl" else None
        predicted = predictions(student.tail(index), batch, job.student.model)
        if target is None:
            return fisher_loss(predicted, batch, job.seed).sum()
        return divergence(target, predicted, self.gamma).sum()

    def _score(self, job: Job, site: Site, *, squares: Tensor, moments: Tensor) -> Tensor:
        predictive = squares / (2 * job.sequences)
        energy = output_energy(moments, job.student.unit_weights(site).cpu())
        representational = energy / job.tokens / site.width
        knowledge = self.lambda_pred * predictive + self.lambda_rep * representational
        weight = self.mu / site.unit_width if site.unit_width > 1 else 1.0
        return weight * knowledge / job.unit_cost(site)


class _Teacher:
    """The dense model's predictions by batch: kept where they are small, computed anew from the boundary if not."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.kept: dict[int, Predictions] = {}

    @torch.no_grad()
    def __call__(self, index: int) -> Predictions:
        if index in self.kept:
            return self.kept[index]
        dense = self.walk.dense
        predicted = predictions(dense.tail(index), dense.batches[index], dense.structure.model)
        if predicted.values.numel() * 8 <= dense.hidden[index].numel():
            self.kept[index] = predicted
        return predicted


def _no_knowledge(site: Site) -> Sums:
    """Make the zeros that squared mask gradients and second moments of every unit are added to."""
    return {
        "squares": torch.zeros(site.units, dtype=torch.float64),
        "moments": torch.zeros(site.units, site.unit_width, site.unit_width, dtype=torch.float64),
    }


PROVIDES = {"kprune": KPrune}
