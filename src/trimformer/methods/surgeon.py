"""Surgeon: optimal brain surgeon on whole units, in the metric of the model's own Fisher information. The default.

One forward and one backward pass of the dense model give, for every sublayer, the covariance of the inputs of its
output projection (the refit's intercept makes up for their mean) and the second moment of the gradient at its output,
for directions that have the Fisher information of the model's own prediction. From them come removal curves: in which
order units go, and how much each raises the KL divergence to the dense model. All curves are merged by cost per saved
FLOP (or parameter); one calibration serves every budget. At last, from the bottom up, the projections into every
sublayer are re-solved to read from the student's residual stream what the dense ones read from theirs, the last units
to go are chosen anew on the student's own statistics, and the output projection is re-solved so that the residual
stream is nearest to the dense model's.

Needs no labels. One backward pass; memory features² for every site, curves for one site at a time.

Source: ours. Nearest relatives: ZipLM (arXiv 2302.04089), SlimGPT (arXiv 2412.18110), LLM Surgeon (arXiv 2312.17244),
K-prune's residual repair (arXiv 2308.03449). Curvature is K-FAC (arXiv 1503.05671) with the true Fisher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trimformer import ranks
from trimformer.calibration import check_finite, frozen, watching
from trimformer.curves import RemovalCurve, damped, removal_curve
from trimformer.errors import require_range
from trimformer.interfaces import Masks, Measured
from trimformer.job import Calibration, Job, Walk, cut_and_refit
from trimformer.masking import feature_mask
from trimformer.objectives import fisher_loss, predictions
from trimformer.reconstruction import RegressionSums
from trimformer.search import remove_cheapest
from trimformer.sites import Site


@dataclass(frozen=True, kw_only=True)
class Surgeon:
    """Options of Surgeon; all strengths are relative to the mean diagonal of the matrix they are added to."""

    measured_by: ClassVar[tuple[str, ...]] = ("damping", "curve_ridge", "intercept")
    needs_labels: ClassVar[bool] = False

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

    def __post_init__(self) -> None:
        for name in ("damping", "curve_ridge"):
            require_range(name, getattr(self, name), low_included=False)
        require_range("ridge", self.ridge)
        for name in ("focus", "reconsider"):
            require_range(name, getattr(self, name), high=1.0)

    def measure(self, calibration: Calibration) -> Measured:
        """By site: `order` and `cost` of its removal curve, `metric`, and `energy`.

        `metric` is the second moment of the gradient at the site's output, `energy` every token's squared gradient.
        """
        with frozen(calibration.dense.model):
            grams, metrics, energies = self._moments(calibration)

            def curve(site: Site) -> dict[str, Tensor]:
                weight = calibration.dense.consumer_weight(site)
                found = self._curve(site, grams.pop(site.name), metrics[site.name], weight)
                return {"order": found.order, "cost": found.cost}

            measured = calibration.by_site(calibration.dense.occupied, "removal curves", curve)
        for name, metric in metrics.items():
            measured |= {f"{name}.metric": metric, f"{name}.energy": energies[name]}
        return measured

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Allocate the budget over the curves; from the bottom up cut, choose the last units anew, and refit."""
        curves = {
            s.name: RemovalCurve(measured[f"{s.name}.order"], measured[f"{s.name}.cost"]) for s in job.dense.occupied
        }
        masks = ranks.agreed_masks(job.dense.full_masks() | remove_cheapest(curves, job.costs, job.limit))
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
            removed = self._least_useful(walk, site, sums, measured[f"{site.name}.metric"], candidates - kept)
            chosen = walk.cut(site, torch.ones(candidates, dtype=torch.bool).index_fill(0, removed, value=False))
            sums = sums.select(feature_mask(site, chosen).nonzero()[:, 0].to(sums.products.device))
            mask = mask.clone().masked_scatter(mask, chosen)
        walk.solve(site, sums, ridge=self.ridge, intercept=self.intercept)
        walk.leave(site)
        return mask

    def _least_useful(self, walk: Walk, site: Site, sums: RegressionSums, metric: Tensor, count: int) -> Tensor:
        """The `count` units of the student's site that are missed least, by the student's own statistics."""
        weight = walk.solution(site, sums, ridge=self.ridge, intercept=self.intercept).weight
        gram = sums.covariance if self.intercept else sums.gram
        return self._curve(site, gram, metric.to(gram.device), weight, removals=count).order

    def _token_weights(self, job: Job, energy: Tensor | None) -> list[Tensor] | None:
        if not self.focus or energy is None:
            return None
        energy = energy.to(job.dense.model.device)
        weights = (1 - self.focus) + self.focus * energy / energy.mean().clamp(min=1e-30)
        return job.share(job.by_batch(weights))

    def _moments(self, calibration: Calibration) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """By site: covariance of `h` over tokens, mean over sequences of `Σ_t g gᵀ`, and `‖g_t‖²` of every token.

        Where the refit has no intercept, mean of `h hᵀ` in place of the covariance.
        """
        device, width = calibration.dense.model.device, calibration.dense.width
        sites = calibration.dense.occupied
        sums = {site.name: RegressionSums(site.features, 0, device, ranks.agreed) for site in sites}
        metrics = {site.name: torch.zeros(width, width, dtype=torch.float64, device=device) for site in sites}
        energies = {site.name: torch.zeros(calibration.tokens, device=device) for site in sites}
        places = calibration.by_batch(torch.arange(calibration.tokens, device=device))

        def see_input(site: Site, hidden: Tensor) -> None:
            sums[site.name].add(hidden[rows].float(), nothing)

        def see_gradient(site: Site, gradient: Tensor) -> None:
            real = gradient[rows].float()
            metrics[site.name] += real.T @ real
            energies[site.name][here] = real.square().sum(1)

        given = calibration.share(list(zip(calibration.batches, places, strict=True)))
        for batch, own_places in calibration.progress(given, "measuring curvature"):
            rows, here = batch["attention_mask"].bool(), own_places
            nothing = torch.empty(int(rows.sum()), 0, device=device)
            with (
                torch.enable_grad(),
                watching(calibration.dense, sites, inputs=see_input, output_gradients=see_gradient),
            ):
                predicted = predictions(calibration.dense.model(**batch), batch, calibration.dense.model.config)
                fisher_loss(predicted, batch, calibration.seed).sum().backward()
        for name, total in sums.items():
            ranks.add_up(total.products, metrics[name], energies[name])
        return (
            {name: total.covariance if self.intercept else total.gram for name, total in sums.items()},
            {name: metric / calibration.sequences for name, metric in metrics.items()},
            energies,
        )

    def _curve(
        self, site: Site, gram: Tensor, metric: Tensor, weight: Tensor, removals: int | None = None
    ) -> RemovalCurve:
        check_finite(gram, site.name)
        check_finite(metric, site.name)
        units = gram.shape[0] // site.unit_width
        return removal_curve(
            damped(gram, self.curve_ridge), damped(metric, self.damping), weight, units, site=site.name,
            removals=removals,
        )  # fmt: skip


PROVIDES = {"surgeon": Surgeon}
