"""Surgeon: optimal brain surgeon on whole units, in the metric of the model's own Fisher information. The default.

One forward and one backward pass of the dense model give, for every sublayer, the covariance of the inputs of its
output projection (the refit's intercept makes up for their mean) and the second moment of the gradient at its output,
for directions that have the Fisher information of the model's own prediction. From them come removal curves: in which
order units go, and how much each raises the KL divergence to the dense model. All curves are merged by cost per saved
FLOP (or parameter); one calibration serves every budget. At last, from the bottom up, the projections into every
sublayer are re-solved to read from the student's residual stream what the dense ones read from theirs, the last units
to go are chosen anew on the student's own statistics, and the output projection is re-solved so that the residual
stream is nearest to the dense model's. Where it then still diverges, its blocks are trained towards the dense ones,
and at last a sentence encoder's embeddings are mapped to the dense ones.

Needs no labels. One backward pass, block by block where memory is short, and those of blocks that are trained; or none
(`gradients=False`). Memory features² for every site or for those of one block, curves for one site at a time.

Source: ours. Nearest relatives: ZipLM (arXiv 2302.04089), SlimGPT (arXiv 2412.18110), LLM Surgeon (arXiv 2312.17244),
K-prune's residual repair (arXiv 2308.03449). Curvature is K-FAC (arXiv 1503.05671) with the true Fisher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from trimformer.errors import InvalidOption, require_range
from trimformer.model.masking import feature_mask
from trimformer.model.sites import Masks, Scores, Site
from trimformer.observing.calibration import Calibration
from trimformer.observing.measurements import Measured, Measurement
from trimformer.observing.moments import Group, moments
from trimformer.observing.sums import RegressionSums
from trimformer.observing.watching import check_finite, frozen
from trimformer.pruning.choose.curves import RemovalCurve, damped, removal_curve
from trimformer.pruning.choose.narrowing import NarrowingCurve, Shape, narrowing_curve, rectangle, stepped_table
from trimformer.pruning.choose.search import remove_cheapest
from trimformer.pruning.contract import Backward, Effort, Job
from trimformer.pruning.refit.blocks import PASSES_AN_EPOCH, Training, train_blocks
from trimformer.pruning.refit.pooled import map_embeddings
from trimformer.pruning.refit.walk import Stop, Walk, cut_and_refit


@dataclass(frozen=True, kw_only=True)
class Curvature(Measurement):
    """Removal curve of one site, and the metric that it is measured in."""

    order: Tensor
    """Units in the order of their removal, `(units,)`."""
    cost: Tensor
    """Cost of each removal, `(units,)`, in order: in nats; without gradients, by the output's squared change."""
    metric: Tensor | None = None
    """Second moment of the gradient at the site's output, `(width, width)`; None without gradients."""
    energy: Tensor | None = None
    """Squared gradient of every token there, `(tokens,)`; None without gradients."""
    sizes: Tensor | None = None
    """Where units are dimensions of heads, numbers of them that may stay, rising; else None."""
    scores: Tensor | None = None
    """Where they are, what the scores of each cost, see `narrowing_curve`, `(units,)`; else None."""

    @property
    def removal_cost(self) -> Tensor:
        """Cost of each removal, `(units,)`, in order."""
        return self.cost


@dataclass(frozen=True, kw_only=True)
class Surgeon:
    """Options of Surgeon; all strengths are relative to the mean diagonal of the matrix they are added to."""

    measured_by: ClassVar[tuple[str, ...]] = ("damping", "curve_ridge", "intercept", "gradients", "width_step")
    measurement: ClassVar[type[Measurement] | None] = Curvature
    needs_labels: ClassVar[bool] = False
    removes: ClassVar[str | None] = None

    narrow: bool = True
    """Remove dimensions of heads too, not only heads, where attention can have narrower ones; not without gradients."""
    width_step: int = 4
    """Narrower heads have a multiple of this many dimensions, or of a quarter of a head's where that is less; above 0.

    Processors multiply whole vectors and tiles, so that odd widths save less time than FLOPs."""
    gradients: bool = True
    """Measure the metric by a backward pass; without, by forward passes alone, where memory is short."""
    damping: float = 0.3
    """Of the gradients' second moment, the metric; above 0."""
    curve_ridge: float = 1e-4
    """Of the Gram matrix while units are removed; above 0."""
    focus: float = 0.0
    """How much the refit weighs tokens by their squared gradient, from 0 (all alike) to 1."""
    reconsider: float = 0.5
    """Share of the units to be removed that are decided anew, on the pruned student's own statistics, from 0 to 1."""
    align: bool = True
    """Re-solve the projections into every sublayer for what enters it in the student."""
    tune: bool = True
    """Align, and refit the output projections, from the bottom up; without it, units are only cut."""
    ridge: float = 1e-2
    """Of the refit, a pull towards the dense weights, and of `align`, towards the identity; at least 0."""
    intercept: bool = True
    """Of the refit: also re-solve the bias."""
    epochs: int = 3
    """Then train every block, so often over the calibration rows and variations of them; not without gradients."""
    rate: float = 5e-4
    """Largest step of that training; above 0."""
    negligible: float = 0.04
    """Divergence from the dense model, in nats, up to which nothing is trained; at least 0: see `mean_divergence`.

    A first look that leaves no more is enough: see `looking`."""
    map_embeddings: bool = True
    """Of a sentence-transformers model: then map its embeddings, by one matrix more, to the dense model's."""

    @property
    def effort(self) -> Effort:
        """Count the passes as they were measured on MiniLM: heads are turned where they may be narrower."""
        return Effort(measuring=5.5 if self.narrows else 4.6, pruning=4.2 + PASSES_AN_EPOCH * self.training_epochs)

    @property
    def backward(self) -> Backward:
        """By block, since gradients are taken so where memory is short, and blocks trained so; else none."""
        return "by block" if self.gradients else "none"

    @property
    def narrows(self) -> bool:
        """True if dimensions of heads are to go too; what is missed with them is told by gradients."""
        return self.narrow and self.gradients

    @property
    def training_epochs(self) -> int:
        """How often blocks are trained over the rows, at most: not at all without gradients, or without the refit."""
        return self.epochs if self.gradients and self.tune else 0

    def looking(self) -> Surgeon:
        """Give the same without training: where a first look is enough, there is nothing to train."""
        return replace(self, epochs=0)

    def __post_init__(self) -> None:
        if self.focus and not self.gradients:
            raise InvalidOption("`focus` weighs tokens by their gradients: it goes not with `gradients=false`")
        for name in ("damping", "curve_ridge", "rate"):
            require_range(name, getattr(self, name), low_included=False)
        for name in ("ridge", "epochs", "negligible"):
            require_range(name, getattr(self, name))
        require_range("width_step", self.width_step, low=1)
        for name in ("focus", "reconsider"):
            require_range(name, getattr(self, name), high=1.0)

    def measure(self, calibration: Calibration) -> dict[str, Curvature]:
        """Measure every site's removal curve and, with gradients, metric and energy."""
        measured: dict[str, Curvature] = {}
        with frozen(calibration.dense.model):
            for group in moments(calibration, gradients=self.gradients):
                measured |= self._curves(calibration, group)
        return measured

    def worth(self, job: Job, measured: Measured) -> Scores:
        """Give every unit what its removal costs, in its place of the curve."""
        found = {site.name: measured[site.name] for site in job.dense.occupied}
        return {name: torch.empty_like(each.cost).scatter(0, each.order, each.cost) for name, each in found.items()}

    @property
    def in_nats(self) -> bool:
        """True with gradients; without, a removal costs the squared change of its sublayer's output."""
        return self.gradients

    def decide(self, job: Job, measured: Measured) -> Masks:
        """Allocate the budget over the curves."""
        found = {site.name: measured[site.name] for site in job.dense.occupied}
        curves = {name: RemovalCurve(each.order, each.cost) for name, each in found.items()}
        shapes = job.bounds.shapes
        steps = {name: each.sizes for name, each in found.items() if each.sizes is not None and name not in shapes}
        costs = dict(job.costs) | {name: stepped_table(job.costs[name], sizes) for name, sizes in steps.items()}
        masks = job.dense.full_masks() | remove_cheapest(curves, costs, job.limit, job.bounds)
        masks |= {
            site.name: rectangle(found[site.name].order, site.head_width, shapes[site.name])
            for site in job.dense.occupied
            if site.name in shapes
        }
        return job.first_decides(masks)

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Allocate the budget; from the bottom up cut, choose the last units anew, and refit."""
        decided = self.decide(job, measured)
        with frozen(job.dense.model), frozen(job.student.model):
            if not self.tune:
                cut_and_refit(job, decided, tune=False, ridge=0.0, intercept=False)
                return decided
            masks = Walk(job, "cutting and refitting").settled(
                lambda stop: self._settle(stop, decided[stop.site.name], measured.get(stop.site.name))
            )
        train_blocks(job, Training(self.training_epochs, self.rate, self.negligible))
        if self.map_embeddings:
            map_embeddings(job)
        return masks

    def _settle(self, stop: Stop, mask: Tensor, measured: Curvature | None) -> Tensor:
        """Cut and refit the site the walk stands at: as many units as in the mask, the last of them chosen anew."""
        kept, candidates = int(mask.sum()), self._candidates(stop, mask, measured)
        if self.align and kept:
            stop.align(ridge=self.ridge, intercept=self.intercept)
        found = stop.cut(candidates)
        sums = stop.regression(self._token_weights(stop, measured))
        if measured is not None and int(found.sum()) > kept:
            removed = self._least_useful(stop, sums, measured, found, mask)
            chosen = stop.cut(torch.ones(int(found.sum()), dtype=torch.bool).index_fill(0, removed, value=False))
            sums = sums.select(feature_mask(stop.site, chosen).nonzero()[:, 0].to(sums.products.device))
            found = found.clone().masked_scatter(found, chosen)
        stop.solve(sums, ridge=self.ridge, intercept=self.intercept)
        return found

    def _candidates(self, stop: Stop, mask: Tensor, measured: Curvature | None) -> Tensor:
        """Give the units among which those that stay are chosen anew, those of the mask among them."""
        site, kept = stop.site, int(mask.sum())
        if measured is None or not kept:
            return mask
        if site.head_width:
            sizes = zip(_shape(site, mask), (site.heads, site.head_width), strict=True)
            heads, width = (now + round(self.reconsider * (of - now)) for now, of in sizes)
            return rectangle(measured.order, site.head_width, (heads, width))
        order = stop.job.bounds.protected_last(site.name, measured.order)
        count = kept + round(self.reconsider * (site.units - kept))
        return torch.ones_like(mask).index_fill(0, order[: site.units - count], value=False)

    def _least_useful(
        self, stop: Stop, sums: RegressionSums, measured: Curvature, candidates: Tensor, mask: Tensor
    ) -> Tensor:
        """Choose the candidates that are missed least, by the student's own statistics; as many stay as in a mask."""
        site, gram = stop.site, self._gram(sums)
        weight = stop.solution(sums, ridge=self.ridge, intercept=self.intercept).weight
        if site.head_width and measured.metric is not None and measured.scores is not None:
            heads, least = _shape(site, candidates)[0], _shape(site, mask)
            scores = measured.scores[candidates]
            found = self._narrowing(site, gram, measured.metric, weight, scores, heads=heads, least=least)
            return found.curve.order
        protected = stop.job.bounds.protected.get(site.name, torch.zeros_like(candidates))[candidates]
        count = int(candidates.sum()) - int(mask.sum())
        return self._curve(site, gram, measured.metric, weight, count, protected).order

    def _token_weights(self, stop: Stop, measured: Curvature | None) -> list[Tensor] | None:
        if not self.focus or measured is None or measured.energy is None:
            return None
        energy = measured.energy.to(stop.job.dense.device)
        weights = (1 - self.focus) + self.focus * energy / energy.mean().clamp(min=1e-30)
        return stop.job.share(stop.job.by_batch(weights, stop.site.chain))

    def _gram(self, sums: RegressionSums) -> Tensor:
        """Give the covariance of a consumer's input or, if the refit has no intercept, the mean of `h hᵀ`."""
        return sums.covariance if self.intercept else sums.gram

    def _curves(self, calibration: Calibration, group: Group) -> dict[str, Curvature]:
        """Compute the curvature of every site of a group, forgetting the moments it is made from site by site."""
        dense, sites = calibration.dense, [seen.site for seen in group.values()]

        def curvature(site: Site) -> Curvature:
            seen = group.pop(site.name)
            metric, energy = (seen.gradients / calibration.sequences, seen.energy) if self.gradients else (None, None)
            weight = dense.consumer_weight(site)
            if site.head_width and metric is not None:
                scores, gram = (seen.scores / calibration.sequences).cpu(), self._gram(seen.inputs)
                found = self._narrowing(site, gram, metric, weight, scores, heads=site.heads, step=self.width_step)
                order, cost = found.curve.order, found.curve.cost
                return Curvature(order=order, cost=cost, metric=metric, energy=energy, sizes=found.sizes, scores=scores)
            curve = self._curve(site, self._gram(seen.inputs), metric, weight)
            return Curvature(order=curve.order, cost=curve.cost, metric=metric, energy=energy)

        return calibration.by_site(
            sites, Curvature, curvature, "removal curves" if len(sites) == len(dense.occupied) else None
        )

    def _narrowing(  # noqa: PLR0913  # what a curve is made from, and where it ends
        self,
        site: Site,
        gram: Tensor,
        metric: Tensor,
        weight: Tensor,
        scores: Tensor,
        *,
        heads: int,
        step: int = 1,
        least: Shape = (0, 0),
    ) -> NarrowingCurve:
        """Compute the removal curve of a site whose units are dimensions of heads."""
        check_finite(gram, site.name)
        check_finite(metric, site.name)
        return narrowing_curve(
            damped(gram, self.curve_ridge),
            damped(metric.to(gram.device), self.damping),
            weight,
            scores,
            heads,
            site=site.name,
            step=step,
            least=least,
        )

    def _curve(
        self,
        site: Site,
        gram: Tensor,
        metric: Tensor | None,
        weight: Tensor,
        removals: int | None = None,
        protected: Tensor | None = None,
    ) -> RemovalCurve:
        """Compute the removal curve of a site; without a metric, a change at its output costs by its squared length."""
        output = torch.eye(site.width, dtype=torch.float64) if metric is None else metric
        check_finite(gram, site.name)
        check_finite(output, site.name)
        return removal_curve(
            damped(site.by_unit(site.by_unit(gram, 0), 1), self.curve_ridge),
            damped(output.to(gram.device), self.damping),
            site.by_unit(weight, 0),
            gram.shape[0] // site.unit_width,
            site=site.name,
            removals=removals,
            protected=protected,
        )


def _shape(site: Site, mask: Tensor) -> Shape:
    """Count the heads that stay, and the dimensions of each."""
    widths = site.by_head(mask).sum(1)
    return int((widths > 0).sum()), int(widths.max())


PROVIDES = {"surgeon": Surgeon}
