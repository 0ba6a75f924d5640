"""Dual CP, the pruning of P-pruning: of heads or neurons that say the same, keep the most active. No gradients.

Units of a sublayer are alike where their activations at some tokens are, up to sign and scale. Average linkage makes a
dendrogram of every sublayer; one threshold for all heads, and one for all neurons, cuts them into clusters, and each
cluster keeps its most active unit. Meant for a pre-trained model that is fine-tuned after pruning.

Needs no labels, no gradients and no task head. One forward pass; memory features² for one site.

Source: Wang et al.: Pruning before Fine-tuning: A Retraining-free Compression Framework for Pre-trained Language Models
(LREC-COLING 2024), algorithms 1 and 2.

Differs from the paper:
- thresholds are not multiples of a step δ: clusters are merged by rising distance until the budget just holds;
- heads keep to their share of the budget first, and neurons get what is left, less than a head more than their share;
- a budget below one unit a sublayer empties sublayers, in place of failing;
- the mean in equation 8 is over a head's dimensions, not over heads;
- `tune` is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trimformer.errors import InvalidOption, require_range
from trimformer.model.sites import Masks, Site
from trimformer.observing.calibration import Calibration, Seen, Sums
from trimformer.observing.measurements import Measured, Measurement
from trimformer.observing.watching import frozen
from trimformer.pruning.budget import total_cost
from trimformer.pruning.choose.bounds import FREE
from trimformer.pruning.choose.clustering import dendrogram, redundant_units, removal_order, similarity
from trimformer.pruning.choose.search import remove_in_order
from trimformer.pruning.contract import Backward, Effort, Job
from trimformer.pruning.parameters import FIXED_TOKENS
from trimformer.pruning.refit.walk import cut_and_refit

DIGITS = 3
"""Decimals of the ranges that an error names."""


@dataclass(frozen=True, kw_only=True)
class Clusters(Measurement):
    """Clusters of the units of one site."""

    merges: Tensor
    """Dendrogram, `(units − 1, 4)`, see `clustering`."""
    activity: Tensor
    """Mean absolute activation of every unit, `(units,)`."""


@dataclass(frozen=True, kw_only=True)
class DualCP:
    """Options of Dual CP."""

    measured_by: ClassVar[tuple[str, ...]] = ("tokens",)
    measurement: ClassVar[type[Measurement] | None] = Clusters
    needs_labels: ClassVar[bool] = False
    removes: ClassVar[str | None] = None
    backward: ClassVar[Backward] = "none"
    effort: ClassVar[Effort] = Effort(measuring=1.0, most_tokens=FIXED_TOKENS)

    tokens: int = 200
    """Tokens drawn from the calibration rows to compare units at; at least 2."""
    lambda_: float = 5.0
    """How much more cost neurons lose than heads; at least 0."""
    centroid: Literal["most_active", "random", "worst"] = "most_active"
    """Units that stay of a cluster: its most active one, any one, or (`worst`) all of large and none of small ones."""
    tune: bool = False
    """Refit the output projections afterwards."""
    ridge: float = 1e-2
    """Of the refit: pull towards the dense weights; at least 0."""
    intercept: bool = True
    """Of the refit: also re-solve the bias."""

    def __post_init__(self) -> None:
        require_range("tokens", self.tokens, low=2)
        require_range("lambda_", self.lambda_)
        require_range("ridge", self.ridge)

    def measure(self, calibration: Calibration) -> dict[str, Clusters]:
        """Cluster the units of every site by what they put out at some tokens."""
        inputs = self._inputs_at_drawn_tokens(calibration)

        def clusters(site: Site) -> Clusters:
            hidden = inputs.pop(site.name)["inputs"]
            return Clusters(
                merges=dendrogram(similarity(hidden, site.units)),
                activity=hidden.abs().mean(0).reshape(site.units, -1).mean(1).cpu(),
            )

        return calibration.by_site(calibration.dense.occupied, Clusters, clusters, "clustering")

    def _inputs_at_drawn_tokens(self, calibration: Calibration) -> dict[str, Sums]:
        """Collect the consumers' `inputs` at the drawn tokens, `(drawn, features)` by site; no other token is kept."""
        device, drawn, places = calibration.dense.device, [], []
        for chain, tokens in enumerate(calibration.tokens_by_batch):
            drawn.append(drawn_tokens(sum(tokens), self.tokens, calibration.seed))
            numbers = torch.where(drawn[-1], drawn[-1].cumsum(0) - 1, -1).to(device)
            places.append(calibration.share(calibration.by_batch(numbers, chain)))

        def add(sums: Sums, seen: Seen) -> None:
            here = places[seen.site.chain][seen.number]
            sums["inputs"][here[here >= 0]] = seen.rows[here >= 0].double()

        def zeros(site: Site) -> Sums:
            size = (int(drawn[site.chain].sum()), site.features)
            return {"inputs": torch.zeros(size, dtype=torch.float64, device=device)}

        return calibration.collect(calibration.dense.occupied, zeros, inputs=add, description="collecting activations")

    def prune(self, job: Job, measured: Measured) -> Masks:
        """Split the budget, cut the dendrograms of heads and of neurons, keep one unit of each cluster."""
        priority = self._priority(job, measured)
        heads, others = ([site for site in job.dense.occupied if site.attends is attends] for attends in (True, False))
        masks = job.dense.full_masks()
        masks |= self._clustered(job, heads, attention_limit(job, self.lambda_), measured, priority)
        left = job.limit - total_cost({site.name: masks[site.name] for site in heads}, job.costs)
        masks |= self._clustered(job, others, left, measured, priority)
        with frozen(job.dense.model), frozen(job.student.model):
            cut_and_refit(job, masks, tune=self.tune, ridge=self.ridge, intercept=self.intercept)
        return masks

    def _priority(self, job: Job, measured: Measured) -> dict[str, Tensor]:
        """Give units priorities, `(units,)` by site: of a cluster the one of highest priority stays."""
        generator = torch.Generator().manual_seed(job.seed)
        return {
            site.name: torch.rand(site.units, generator=generator)
            if self.centroid == "random"
            else measured[site.name].activity
            for site in job.dense.occupied
        }

    def _clustered(
        self, job: Job, sites: Sequence[Site], limit: float, measured: Measured, priority: dict[str, Tensor]
    ) -> Masks:
        """Make the masks of some sites within a limit: units are merged by rising distance, over all of them."""
        merges = {site.name: measured[site.name].merges for site in sites}
        last = torch.full((1,), torch.inf, dtype=torch.float64)
        distances = {name: torch.cat([rows[:, 2], last]) for name, rows in merges.items()}
        orders = {name: removal_order(rows, priority[name]) for name, rows in merges.items()}
        masks = remove_in_order(orders, distances, job.costs, limit, job.bounds)
        if self.centroid == "worst":
            worst = {name: redundant_units(merges[name], priority[name], int(m.sum())) for name, m in masks.items()}
            return {name: job.bounds.keeping_protected(name, mask) for name, mask in worst.items()}
        return masks


def attention_limit(job: Job, ratio: float) -> float:
    """Compute what heads may cost, so that neurons lose `ratio` times what heads lose: `I_F − C_F = λ (I_A − C_A)`.

    `I` is the cost of all, `C` of the kept units. Where the model has only neurons, or only heads, they lose it all.
    Sizes that were asked for go before the ratio: heads get what is nearest to it within them.

    Raises:
        InvalidOption: heads or neurons have less than they would lose; names the values that are possible.
    """
    attention, feed_forward = (
        sum(float(job.costs[site.name][-1]) for site in job.dense if site.attends is attends)
        for attends in (True, False)
    )
    if not (attention and feed_forward):
        return min(job.limit, attention)
    if job.bounds != FREE:
        return _within_bounds(job, attention - max(0.0, attention + feed_forward - job.limit) / (1 + ratio))
    total, removed = attention + feed_forward, max(0.0, attention + feed_forward - job.limit)
    from_attention = removed / (1 + ratio)
    slack = total * 1e-9
    if from_attention <= attention + slack and removed - from_attention <= feed_forward + slack:
        return max(0.0, attention - from_attention)
    least = _up(max(0.0, removed / attention - 1))
    most = _down(feed_forward / (removed - feed_forward)) if removed > feed_forward else None
    removable = (1 + ratio) * min(attention, feed_forward / ratio if ratio else math.inf)
    values = f"at least {least:g}" if most is None else f"from {least:g} to {most:g}"
    raise InvalidOption(
        f"`lambda_={ratio:g}` takes more from {'heads' if from_attention > attention else 'neurons'} than they cost: "
        f"to keep {job.limit / total:.3g} of the cost of heads and neurons, `lambda_` must be {values}; with "
        f"`lambda_={ratio:g}`, keep at least {_up(1 - removable / total):g}"
    )


def _within_bounds(job: Job, limit: float) -> float:
    """Give the cost of heads that is nearest to a limit, with heads and neurons both within the job's bounds."""
    heads, neurons = (
        job.bounds.cost(job.costs, [site.name for site in job.dense if site.attends is attends])
        for attends in (True, False)
    )
    return max(heads[0], job.limit - neurons[1], min(limit, heads[1], job.limit - neurons[0]))


def drawn_tokens(tokens: int, wanted: int, seed: int) -> Tensor:
    """Draw the tokens to look at: `(tokens,)`, True for `wanted` of them, or for all where there are fewer."""
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
    return torch.zeros(tokens, dtype=torch.bool).index_fill_(0, order[:wanted], value=True)


def _up(value: float) -> float:
    return float(math.ceil(value * 10**DIGITS) / 10**DIGITS)


def _down(value: float) -> float:
    return float(math.floor(value * 10**DIGITS) / 10**DIGITS)


PROVIDES = {"dual_cp": DualCP}
