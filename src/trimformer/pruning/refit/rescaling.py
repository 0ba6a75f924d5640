"""Tune one number a unit: scales of the kept units, solved sublayer by sublayer and folded into the weights.

The target is a teacher that is itself pruned, but less, so that it can be reached by scales alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimformer import processes
from trimformer.data.rows import Batch
from trimformer.model.masking import feature_mask, masked
from trimformer.model.sites import Masks, Site
from trimformer.model.structure import Structure
from trimformer.observing.predictions import predictions
from trimformer.observing.sums import RegressionSums
from trimformer.observing.watching import check_finite, frozen, watching
from trimformer.pruning.contract import Job
from trimformer.pruning.refit.least_squares import spd_solve
from trimformer.pruning.refit.walk import Stop, Walk, cut_and_refit

LARGEST_SCALE = 10.0
TINY = 1e-30
"""Diagonal that keeps the system solvable for units that add nothing at all: their scales stay 1."""


@dataclass(frozen=True)
class UnitSystem:
    """Normal equations of the scales of a site's units: `matrix` `(units, units)`, `right` `(units,)`."""

    matrix: Tensor
    right: Tensor


def unit_system(sums: RegressionSums, weight: Tensor, bias: Tensor, units: int) -> UnitSystem:
    """Compute the normal equations of `min_s Σ_t ‖ y_t − b − Σ_u s_u h_u(x_t) W_u ‖²`, from running sums.

    Nothing per token is needed: `Σ_t ⟨h_u W_u, h_v W_v⟩` is the sum of the part of `(HᵀH) ∘ (W Wᵀ)` that belongs to `u`
    and `v`.

    Args:
        sums: of the consumer's input `h` and the target `y`.
        weight: `W`, `(features, outputs)`.
        bias: `b`, `(outputs,)`.
        units: of the site.
    """
    weight, bias = weight.double(), bias.double()
    products = sums.tokens * sums.gram * (weight @ weight.T)
    cross = sums.tokens * (sums.cross - torch.outer(sums.input_mean, bias)) * weight
    width = sums.features // units
    return UnitSystem(
        products.reshape(units, width, units, width).sum((1, 3)), cross.sum(1).reshape(units, width).sum(1)
    )


def unit_scales(system: UnitSystem, damping: float, site: str) -> Tensor | None:
    """Solve the normal equations `A s = b` for scales near 1.

        (A + λ I)(s − 1) = b − A 1        λ = damping · mean(diag A)

    Returns:
        `(units,)`; None if a scale is outside −10 to 10.

    Raises:
        NumericalError: the system is singular; names the site.
    """
    damped = system.matrix.clone()
    damped.diagonal().add_(damping * float(system.matrix.diagonal().mean()) + TINY)
    scales = 1 + spd_solve(damped, (system.right - system.matrix.sum(1))[:, None], site)[:, 0]
    return None if bool((scales.abs() > LARGEST_SCALE).any()) else scales


def cut_and_rescale(job: Job, masks: Masks, teacher: Masks | None, *, damping: float) -> None:
    """Cut the student to given masks; with masks of a teacher, `rescale` what it keeps."""
    with frozen(job.dense.model), frozen(job.student.model):
        if teacher is None:
            cut_and_refit(job, masks, tune=False, ridge=0.0, intercept=False)
        else:
            rescale(job, job.first_decides(masks), job.first_decides(teacher), damping=damping)


def rescale(job: Job, masks: Masks, teacher: Masks, *, damping: float) -> None:
    """Cut the student to given masks, and scale what it keeps, so that its residual stream is nearest to the teacher's.

    The teacher is the dense model without the units that `teacher` removes. The first sublayer is not scaled: its
    input has no error yet. In the last FFN of a model that reads one token of a row only, only that token counts. A
    sublayer whose scales are refused stays as it was cut.

    Source: Kwon et al. (arXiv 2204.09656), mask tuning. Differs: the sublayers above a refused one are still scaled.
    """
    last = job.dense.sites[-1].name
    only_read = tokens_read(job.dense, job.batches)
    counting = None if only_read is None else job.share(only_read)

    def settle(stop: Stop) -> Tensor:
        site, mask = stop.site, stop.cut(masks[stop.site.name])
        if bool(mask.any()) and site != job.student.sites[0]:
            sums = stop.regression(counting if site.name == last else None)
            with job.student.in_memory(site):
                _scale(job.student, site, sums, int(mask.sum()), damping)
        return mask

    with masked(job.dense, teacher):
        Walk(job, "rescaling").settled(settle)


def teacher_job(job: Job) -> Job:
    """Make the same job with a limit half-way, by factors, from all units to its limit; layers may keep any number."""
    total = sum(float(table[-1]) for table in job.costs.values())
    return replace(job, bounds=job.bounds.without_most(), limit=math.sqrt(job.limit * total))


def tokens_read(structure: Structure, batches: list[Batch]) -> list[Tensor] | None:
    """Mark with 1 each row's token that is read of the last sublayer, with 0 the others: `(tokens,)` by batch.

    None unless that is the first token alone, as most classifiers have it, or the last alone, as those of decoders do.
    The gradient at the sublayer's output says so, in the first batch. All tokens are read where the blocks run again.
    """
    if structure.passes(structure.sites[-1].chain) > 1:
        return None
    seen: list[Tensor] = []
    model, batch, chain = structure.model, batches[0], structure.sites[-1].chain
    with (
        torch.enable_grad(),
        watching(structure, structure.sites[-1:], output_gradients=lambda _, gradient: seen.append(gradient)),
    ):
        values = predictions(model(**batch), batch, model).values
        # not their squares: an embedding's length is one, whatever it reads
        (values * torch.arange(1.0, values.shape[-1] + 1, device=values.device)).sum().backward()
    read, masks = seen[0].ne(0).any(-1), [structure.token_mask(other, chain) for other in batches]
    for edge in (_first, _last):
        if masks[0] is not None and torch.equal(read, edge(masks[0])):
            return [edge(mask)[mask].float() for mask in masks if mask is not None]
    return None


def _first(mask: Tensor) -> Tensor:
    return mask & (mask.cumsum(1) == 1)


def _last(mask: Tensor) -> Tensor:
    return mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))


@torch.no_grad()
def _scale(student: Structure, site: Site, sums: RegressionSums, units: int, damping: float) -> None:
    weight, bias = student.consumer_weight(site), student.consumer_bias(site)
    order = site.by_unit(torch.arange(sums.features, device=weight.device))
    fixed = weight.new_zeros(weight.shape[1]) if bias is None else bias
    system = unit_system(sums.select(order), weight[order], fixed, units)
    check_finite(system.right, site.name)
    scales = unit_scales(system, damping, site.name)
    agreed = processes.agreed(torch.ones_like(system.right) if scales is None else scales)
    weight.mul_(feature_mask(site, agreed)[:, None].to(weight))
