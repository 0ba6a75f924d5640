"""From removal curves to the loss that a pruned model is likely to have on other rows. Pure functions.

A curve is measured on the rows that it is fitted to: with `f` features and `n` tokens a least-squares fit leaves
`1 - f/n` of its error there and has `1 + f/n` of it elsewhere. What a curve says is raised by the ratio of the two. A
curve also takes sublayers one by one, and the tokens of a row too; what they lose together is more, as measured below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from trimformer.model.sites import Masks
from trimformer.model.structure import Structure

TOGETHER = 1.8
"""Divergence of refitted models as a multiple of what the curves add up to on unseen rows: MiniLM-L6's on SST-2, MRPC
and STS-B at four budgets, with 2,000 and 6,000 tokens, have a geometric mean of 1.7; docs/plan.md has all of them."""
BAND = 3.0
"""Factor, up and down, within which 23 of these 24 lay."""
FEWEST = 1.25
"""Least tokens a feature that the ratio is computed with: nearer to 1 it grows without limit."""


@dataclass(frozen=True, kw_only=True)
class ForetoldLoss:
    """The divergence from the dense model that is expected on other rows like those of the calibration."""

    expected: float
    """Divergence in nats, of a number half the squared distance; or something of no unit, which only compares sizes."""
    low: float | None = None
    high: float | None = None
    """Upper end of the band that measured results lay in, `low` is the lower one; None of a loss without unit."""


def foretold(structure: Structure, masks: Masks, curves: Mapping[str, Tensor], tokens: int) -> float:
    """Add up what the units cost that masks remove, as expected on other rows.

    Args:
        structure: of the dense model.
        masks: of all its sites.
        curves: cost of each removal, `(units,)`, in order, by site that has units.
        tokens: number of calibration tokens.
    """
    expected = 0.0
    for site in structure.occupied:
        removed = site.units - int(masks[site.name].sum())
        expected += unseen_ratio(site.features, tokens) * float(curves[site.name][:removed].sum())
    return expected


def with_band(added: float) -> ForetoldLoss:
    """Give the divergence to expect where curves in nats add up to so much, with its band."""
    expected = TOGETHER * added
    return ForetoldLoss(expected=expected, low=expected / BAND, high=expected * BAND)


def unseen_ratio(features: int, tokens: int) -> float:
    """Compute how much larger the error of a least-squares fit is on unseen tokens than on those it was fitted to.

    >>> unseen_ratio(1536, 6144)
    1.6666666666666667
    """
    tokens = max(tokens, round(FEWEST * features))
    return (tokens + features) / (tokens - features)
