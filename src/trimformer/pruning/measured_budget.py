"""Budgets of a measured cost: prune by the tables, measure the result, prune again by as much as it was off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from transformers import PreTrainedModel

from trimformer.pruning.result import PruningResult

NEAR, FAR = 0.03, 0.05
"""Relative errors: good enough, and worth a warning."""
ATTEMPTS = 3


def pruned_as_measured(
    prune: Callable[[float], PruningResult], kept: Callable[[PreTrainedModel], float], *, asked: float, lowest: float
) -> PruningResult:
    """Prune at most `ATTEMPTS` times, or until within `NEAR`; give the result that measures nearest to `asked`.

    A result that is still off by more than `FAR` has a warning among its facts.

    Args:
        prune: to a share of the cost as the tables have it.
        kept: the measured share of a pruned model; stored as `measured` in the manifest's budget.
        asked: the share wanted.
        lowest: the share below which the tables cannot go.
    """
    share, tried = asked, list[tuple[float, float, PruningResult]]()
    for _ in range(ATTEMPTS):
        result = prune(share)
        measured = kept(result.model)
        error = abs(measured / asked - 1)
        tried.append((error, measured, result))
        share *= asked / measured
        if error <= NEAR or not lowest < share <= 1:
            break
    error, measured, best = min(tried, key=lambda each: each[0])
    best = best.telling(budget=replace(best.facts.budget, measured=measured))
    if error <= FAR:
        return best
    warning = (
        f"the result measures {measured:.3f} of the dense model, not {asked:g}: "
        "try again while nothing else runs; sizes in between may all take the same time"
    )
    return replace(best, facts=best.facts.with_warnings(warning))
