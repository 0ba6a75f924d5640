"""Try a model out on one row: the dense one before any work, a pruned one before it is given out.

An architecture says where a model's sublayers are, not that they compute what it expects: a bias for every head, say,
is cut by no description that does not name it. So half of the units are cut from a copy first, and masked in the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimformer.data.batches import shape
from trimformer.data.rows import Batch
from trimformer.errors import NumericalError, UnsupportedModel, first_line
from trimformer.model.masking import masked
from trimformer.model.sites import Masks, Site
from trimformer.model.structure import Structure
from trimformer.model.surgery import cut
from trimformer.observing.predictions import PADDED_LOGIT, predictions
from trimformer.observing.watching import frozen

FROM_MODELS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError)
"""Errors that a model's own code raises where its modules do not fit together."""
ROUNDING = {torch.float32: (1e-2, 1e-4), torch.float64: (1e-2, 1e-6)}
"""By precision, what rounding may make of a difference: a share of what masking changes, and of the largest number."""
COARSE = (0.5, 0.1)
"""The same in half precision."""


def shortest_row(batches: Sequence[Batch]) -> Batch:
    """Give one row of the batch with the shortest rows: the cheapest to try something out on."""
    batch = min(batches, key=lambda each: shape(each)[1])
    return {name: values[-1:] for name, values in batch.items()}


def check_layout(dense: Structure, batch: Batch) -> None:
    """Refuse a model that does not compute, with some units cut, what it does with these units masked.

    Raises:
        UnsupportedModel: names the lowest site where it is so, and how it shows.
    """
    with frozen(dense.model), torch.no_grad():
        whole = _numbers(dense, batch)
        problem = _problem(dense, batch, whole, dense.occupied)
        if problem is None:
            return
        for site in dense.occupied:
            own = _problem(dense, batch, whole, [site])
            if own is not None:
                raise UnsupportedModel(_said(dense, site, own))
    raise UnsupportedModel(_said(dense, dense.occupied[0], problem))


def check_result(small: Structure, batch: Batch) -> None:
    """Run a pruned model once, before it is given out.

    Raises:
        NumericalError: it computes NaN or infinity.
    """
    with frozen(small.model), torch.no_grad():
        if not bool(torch.isfinite(_numbers(small, batch)).all()):
            raise NumericalError(
                "the pruned model computes NaN or infinity: use more `calibration_tokens`, a larger share, or float32"
            )


def _said(dense: Structure, site: Site, problem: str) -> str:
    module, family = dense.module(site.core or site.consumer), dense.model.config.model_type
    return (
        f"{site.name} cannot be pruned: without some of its {site.kind}s the {type(dense.model).__name__} {problem}; "
        f"its {type(module).__name__} has something for each of them that the description of {family} does not name"
    )


def _problem(dense: Structure, batch: Batch, whole: Tensor, sites: Sequence[Site]) -> str | None:
    """Cut half of the units of some sites from a copy; say what is wrong with what it computes, or give None."""
    masks = _halves(dense, sites)
    with masked(dense, masks):
        expected = _numbers(dense, batch)
    small = dense.copied()
    try:
        found = _numbers(cut(small, masks), batch)
    except FROM_MODELS as error:
        return f"does not run ({first_line(error)})"
    of_change, of_numbers = ROUNDING.get(dense.model.dtype, COARSE)
    allowed = of_change * float((expected - whole).abs().max()) + of_numbers * float(expected.abs().max())
    difference = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
    return None if difference <= allowed else f"is off by {difference:.2g} from the same model with them masked"


def _halves(dense: Structure, sites: Sequence[Site]) -> Masks:
    """Make masks that drop every second unit of some sites."""
    masks = dense.full_masks()
    for site in sites:
        masks[site.name][1::2] = False
    return masks


def _numbers(structure: Structure, batch: Batch) -> Tensor:
    """Run a model on a batch: all that it predicts at real tokens, in one row of numbers."""
    found = predictions(structure.model(**batch), batch, structure.model)
    values = found.values[found.weights > 0].float()
    return values[values != PADDED_LOGIT]
