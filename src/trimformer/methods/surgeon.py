"""Surgeon: optimal brain surgeon on whole units, in the metric of the model's own Fisher information. The default.

One forward and one backward pass of the dense model give, for every sublayer, the covariance of the inputs of its
output projection (the refit's intercept makes up for their mean) and the second moment of the gradient at its output,
for directions that have the Fisher information of the model's own prediction. From them come removal curves: in which
order units go, and how much each raises the KL divergence to the dense model. All curves are merged by cost per saved
FLOP (or parameter); one calibration serves every budget. At last, from the bottom up, the projections into every
sublayer are re-solved to read from the student's residual stream what the dense ones read from theirs, the last units
to go are chosen anew on the student's own statistics, and the output projection is re-solved so that the residual
stream is nearest to the dense model's.

Needs no labels. One backward pass, block by block where memory is short, or none (`gradients=False`); memory features²
for every site or for those of one block, curves for one site at a time.

Source: ours. Nearest relatives: ZipLM (arXiv 2302.04089), SlimGPT (arXiv 2412.18110), LLM Surgeon (arXiv 2312.17244),
K-prune's residual repair (arXiv 2308.03449). Curvature is K-FAC (arXiv 1503.05671) with the true Fisher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trimformer import processes
from trimformer.errors import InvalidOption, require_range
from trimformer.model.masking import feature_mask
from trimformer.model.sites import Masks, Site
from trimformer.observing.calibration import Calibration, Measured
from trimformer.observing.moments import Moments, moments
from trimformer.observing.sums import RegressionSums
from trimformer.observing.watching import check_finite, frozen
from trimformer.pruning.choose.curves import RemovalCurve, damped, removal_curve
from trimformer.pruning.choose.search import remove_cheapest
from trimformer.pruning.contract import Backward, Job
from trimformer.pruning.refit.walk import Walk, cut_and_refit


@dataclass(frozen=True, kw_only=True)
class Surgeon:
    """Options of Surgeon; all strengths are relative to the mean diagonal of the matrix they are added to."""

    measured_by: ClassVar[tuple[str, ...]] = ("damping", "curve_ridge", "intercept", "gradients")
    needs_labels: ClassVar[bool] = False

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

    @property
    def backward(self) -> Backward:
        """Gradients are taken block by block where memory is short."""
        return "by block" if self.gradients else "none"

    def __post_init__(self) -> None:
        if self.focus and not self.gradients:
            raise InvalidOption("focus weighs tokens by their gradients: it goes not with gradients=false")
        for name in ("damping", "curve_ridge"):
            require_range(name, getattr(self, name), low_included=False)
        require_range("ridge", self.ridge)
        for name in ("focus", "reconsider"):
            require_range(name, getattr(self, name), high=1.0)

    def measure(self, calibration: Calibration) -> Measured:
        """By site: `order` and `cost` of its removal curve; with gradients, `metric` and `energy`.

        `metric` is the second moment of the gradient at the site's output, `energy` every token's squared gradient.
        """
        dense, measured = calibration.dense, dict[str, Tensor]()
        with frozen(dense.model):
            for group in moments(calibration, gradients=self.gradients):
                for name, seen in group.items() if self.gradients else ():
                    metric = seen.gradients / calibration.sequences
                    measured |= {f"{name}.metric": metric, f"{name}.energy": seen.energy}
                measured |= self._curves(calibration, group, measured)
        return measured

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Allocate the budget over the curves; from the bottom up cut, choose the last units anew, and refit."""
        curves = {
            s.name: RemovalCurve(measured[f"{s.name}.order"], measured[f"{s.name}.cost"]) for s in job.dense.occupied
        }
        masks = processes.agreed_masks(job.dense.full_masks() | remove_cheapest(curves, job.costs, job.limit))
        with frozen(job.dense.model), frozen(job.student.model):
            if not self.tune:
                cut_and_refit(job, masks, tune=False, ridge=0.0, intercept=False)
                return masks
            walk = Walk(job)
            for site in job.progress(job.student.sites, "cutting and refitting"):
                masks[site.name] = self._settle(walk, site, masks[site.name], measured)
        return masks

    def _settle(self, walk: Walk, site: Site, mask: Tensor, measured: Measured) -> Tensor:
        """Cut and refit the site the walk stands at: as many units as in the mask, the last of them chosen anew."""
        kept = int(mask.sum())
        candidates = kept + round(self.reconsider * (site.units - kept)) if kept else 0
        if candidates > kept:
            order = measured[f"{site.name}.order"]
            mask = torch.ones_like(mask).index_fill(0, order[: site.units - candidates], value=False)
        if self.align and kept:
            walk.align(site, ridge=self.ridge, intercept=self.intercept)
        mask = walk.cut(site, mask)
        sums = walk.regression(site, self._token_weights(walk.job, measured.get(f"{site.name}.energy")))
        if candidates > kept:
            metric = self._metric(site, measured, walk.job.dense.width)
            removed = self._least_useful(walk, site, sums, metric, candidates - kept)
            chosen = walk.cut(site, torch.ones(candidates, dtype=torch.bool).index_fill(0, removed, value=False))
            sums = sums.select(feature_mask(site, chosen).nonzero()[:, 0].to(sums.products.device))
            mask = mask.clone().masked_scatter(mask, chosen)
        walk.solve(site, sums, ridge=self.ridge, intercept=self.intercept)
        walk.leave(site)
        return mask

    def _least_useful(self, walk: Walk, site: Site, sums: RegressionSums, metric: Tensor, count: int) -> Tensor:
        """The `count` units of the student's site that are missed least, by the student's own statistics."""
        weight = walk.solution(site, sums, ridge=self.ridge, intercept=self.intercept).weight
        gram = self._gram(sums)
        return self._curve(site, gram, metric.to(gram.device), weight, removals=count).order

    def _token_weights(self, job: Job, energy: Tensor | None) -> list[Tensor] | None:
        if not self.focus or energy is None:
            return None
        energy = energy.to(job.dense.device)
        weights = (1 - self.focus) + self.focus * energy / energy.mean().clamp(min=1e-30)
        return job.share(job.by_batch(weights))

    def _metric(self, site: Site, measured: Measured, width: int) -> Tensor:
        """What a change at a site's output costs, `(width, width)`: without gradients, its squared length."""
        return measured.get(f"{site.name}.metric", torch.eye(width, dtype=torch.float64))

    def _gram(self, sums: RegressionSums) -> Tensor:
        """Of a consumer's input over tokens: the covariance, or where the refit has no intercept the mean of `h hᵀ`."""
        return sums.covariance if self.intercept else sums.gram

    def _curves(self, calibration: Calibration, group: dict[str, Moments], measured: Measured) -> Measured:
        """By site of a group: `order` and `cost`. What curves are made from is forgotten one by one."""
        dense, sites = calibration.dense, [seen.site for seen in group.values()]

        def curve(site: Site) -> dict[str, Tensor]:
            gram, metric = self._gram(group.pop(site.name).inputs), self._metric(site, measured, dense.width)
            found = self._curve(site, gram, metric, dense.consumer_weight(site))
            return {"order": found.order, "cost": found.cost}

        return calibration.by_site(sites, "removal curves" if len(sites) == len(dense.occupied) else None, curve)

    def _curve(
        self, site: Site, gram: Tensor, metric: Tensor, weight: Tensor, removals: int | None = None
    ) -> RemovalCurve:
        check_finite(gram, site.name)
        check_finite(metric, site.name)
        units = gram.shape[0] // site.unit_width
        return removal_curve(
            damped(gram, self.curve_ridge),
            damped(metric, self.damping),
            weight,
            units,
            site=site.name,
            removals=removals,
        )


PROVIDES = {"surgeon": Surgeon}
