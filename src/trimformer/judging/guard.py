"""The accuracy guard: the smallest model that loses at most so much."""

from __future__ import annotations

from dataclasses import replace

from datasets import Dataset

from trimformer import plugins, processes
from trimformer.errors import DataError, InvalidOption, UnreachableTarget
from trimformer.judging.metrics import degradation
from trimformer.judging.project import Project
from trimformer.pruning.budget import Budget
from trimformer.pruning.facts import GuardFacts
from trimformer.pruning.pruner import Pruner
from trimformer.pruning.result import PruningResult
from trimformer.pruning.sizes import Sizes

LABEL = "label"
UNLABELLED = (None, -1)
STEPS = 6
"""Steps of the bisection, which find the size to 1/64 of the dense model's cost."""


def smallest_within(
    project: Project,
    pruner: Pruner,
    max_drop: float,
    *,
    cost: str = "flops",
    round_to: int = 1,
    sizes: Sizes | None = None,
) -> PruningResult:
    """Find the smallest model that loses at most `max_drop` on the project's guard rows, by bisection over budgets.

    The loss is that of the task's first metric, or the divergence from the dense model where rows have no labels.
    Neither calibration nor evaluation rows decide, so that the evaluation stays a fair one.

    Args:
        project: one made by `with_guard`.
        pruner: of this project; what it measured serves every step.
        max_drop: largest loss, as `metrics.degradation` has it: in the metric's own unit; at least 0.
        cost: name of what is made small: `flops`, `params` or `latency`.
        round_to: keep neurons of each layer in multiples of this, at every budget tried.
        sizes: asked for by name; what they leave open is decided.

    Raises:
        InvalidOption: sizes that leave nothing to decide, or do not fit.
        UnreachableTarget: even the mildest budget tried loses more; says how much.
        DataError: the project has no guard rows.
    """
    if project.guard_rows is None:
        raise DataError("no rows are set aside to decide by: use project.with_guard()")
    rows = project.guard_rows
    low, high = pruner.reachable(cost, sizes)
    if low == high:
        raise InvalidOption("the sizes asked for leave nothing to decide: leave out `max_drop`, or give ranges")
    project = _comparable(project, rows)
    before = project.evaluate(project.model, rows)
    _ = pruner.measured  # once, before a search whose every step would seem to do it
    lost = 0.0
    best: PruningResult | None = None
    with project.stages.searching() as tell:
        for step in range(STEPS):
            share = (low + high) / 2
            tell(f"search {step + 1} of {STEPS}, {share:.0%} kept" + (f", last lost {lost:.2g}" if step else ""))
            result = pruner.prune(Budget.of(cost, share, round_to=round_to), sizes)
            lost = processes.agreed_number(degradation(before, project.evaluate(result.model, rows)))
            if lost <= max_drop:
                best, high = result.telling(guard=GuardFacts(max_drop=max_drop, drop=lost, rows=len(rows))), share
            else:
                low = share
    if best is None:
        raise UnreachableTarget(
            f"no model that loses at most {max_drop} was found: keeping {low:.1%} of {cost} loses {lost:.4f} "
            f"on {len(rows)} held-out rows; allow a larger loss, or give more `calibration_tokens`"
        )
    return best


def _comparable(project: Project, rows: Dataset) -> Project:
    """Give the project itself, or one of the `text` task where the guard rows lack the labels that its task needs."""
    if LABEL not in project.evaluation_rows.column_names:
        return project
    labels = rows[LABEL] if LABEL in rows.column_names else [None]
    unlabelled = any(label in UNLABELLED for label in labels)
    return replace(project, task=plugins.load("tasks", "text")) if unlabelled else project
