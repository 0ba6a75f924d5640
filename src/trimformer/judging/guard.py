"""The accuracy guard: the smallest model that loses at most so much."""

from __future__ import annotations

from dataclasses import dataclass, replace

from datasets import Dataset
from transformers import PreTrainedModel

from trimformer import plugins, processes
from trimformer.errors import DataError, InvalidOption, LabelError, UnreachableTarget, caution, first_line, unknown_name
from trimformer.judging.metrics import DISTANCES, PERPLEXITY, RELATIVE, Metric, Metrics, interval, shown
from trimformer.judging.project import Project
from trimformer.judging.result import FEW_ROWS
from trimformer.judging.statistics import paired_drop
from trimformer.judging.task import Task
from trimformer.pruning.budget import Budget
from trimformer.pruning.facts import GuardFacts
from trimformer.pruning.pruner import Pruner
from trimformer.pruning.result import PruningResult
from trimformer.pruning.sizes import Sizes

STEPS = 6
"""Steps of the bisection, which find the size to 1/64 of the dense model's cost."""
FAR = 3
"""Multiple of the allowed loss from which the interval of the loss is said to reach far beyond it.

On 1000 rows, the most that are set aside, one point of accuracy is known to about ±1.2 points: that is not warned of.
"""
BY_THE_DENSE = '`metric="agreement"` or `metric="kl"`'


def smallest_within(
    project: Project,
    pruner: Pruner,
    max_drop: float,
    *,
    metric: str | None = None,
    cost: str = "flops",
    round_to: int | None = None,
    sizes: Sizes | None = None,
) -> PruningResult:
    """Find the smallest model that loses at most `max_drop` on the project's guard rows, by bisection over budgets.

    Neither calibration nor evaluation rows decide, so that the evaluation stays a fair one. What decides is the loss
    itself, not the upper end of its interval: on as few rows as are set aside that would refuse nearly every model. The
    interval is told, and warned of where it reaches far beyond what is allowed.

    Args:
        project: one made by `with_guard`.
        pruner: of this project; what it measured serves every step.
        max_drop: largest loss, as `metrics.degradation` has it: in the metric's own unit; at least 0.
        metric: what is lost: one of the task's, or `agreement`, `kl`, `squared_distance` or `cosine_to_dense` with the
            dense model's answers, which need no labels; else the task's first one.
        cost: name of what is made small: `flops`, `params`, `latency` or `size`.
        round_to: as `Budget.round_to`, at every budget tried.
        sizes: asked for by name; what they leave open is decided.

    Raises:
        InvalidOption: sizes that leave nothing to decide, or do not fit; a metric that is not measured.
        LabelError: the metric needs labels that the guard rows do not have.
        UnreachableTarget: even the mildest budget tried loses more; says how much.
        DataError: the project has no guard rows.
    """
    low, high = pruner.reachable(cost, sizes)
    if low == high:
        raise InvalidOption("the sizes asked for leave nothing to decide: leave out `max_drop`, or give ranges")
    guard = guarded(project, metric)
    project.stages.say(f"the smallest {cost} that lose at most {max_drop:g} in {guard.metric}, on {guard.about}")
    pruner.measure(Budget.of(cost, high, round_to=round_to), sizes)  # once, or every step would seem to do it
    drop = Metric(0.0, len(guard.rows), 0.0, 0.0)
    best: PruningResult | None = None
    with project.stages.searching() as tell:
        for step in range(STEPS):
            share = (low + high) / 2
            tell(f"search {step + 1} of {STEPS}, {share:.0%} kept" + (f", last lost {drop.value:.2g}" if step else ""))
            result = pruner.prune(Budget.of(cost, share, round_to=round_to), sizes)
            drop = guard.drop_of(result.model)
            if drop.value <= max_drop:
                best, high = guard.told(result, max_drop, drop), share
            else:
                low = share
    if best is None:
        raise UnreachableTarget(
            f"no model that loses at most {max_drop:g} in {guard.metric} was found: keeping {low:.1%} of {cost} loses "
            f"{drop.value:.4f} (95 % interval {interval(drop)}) on {guard.about}; allow a larger loss, or give more "
            "`calibration_tokens`"
        )
    for warning in best.facts.warnings[len(pruner.warnings) :]:
        caution(warning)
    return best


@dataclass(frozen=True)
class Guard:
    """The rows that decide, what is held on them, and what the dense model has there."""

    project: Project
    """With the task that measures it."""
    rows: Dataset
    metric: str
    before: Metrics

    @property
    def about(self) -> str:
        """Say what decides: `872 guard rows`."""
        return f"{len(self.rows)} guard rows"

    def drop_of(self, model: PreTrainedModel) -> Metric:
        """Measure how much worse a model is than the dense one on these rows, with its interval."""
        drop = paired_drop(self.before, self.project.evaluate(model, self.rows), self.metric)
        return replace(drop, value=processes.agreed_number(drop.value))

    def told(self, result: PruningResult, max_drop: float, drop: Metric) -> PruningResult:
        """Give a result that tells what was allowed and what it loses, with warnings of what that rests on."""
        facts = GuardFacts(
            max_drop=max_drop, drop=drop.value, rows=len(self.rows), metric=self.metric, low=drop.low, high=drop.high
        )
        warnings = [*result.facts.warnings, *filter(None, (self._too_few(max_drop), self._too_wide(max_drop, drop)))]
        return result.telling(guard=facts, warnings=tuple(warnings))

    def _too_few(self, max_drop: float) -> str | None:
        """Word a warning where the rows are too few to tell a loss of that size; else give None."""
        count = len(self.rows)
        by_row = self.metric not in (*DISTANCES, PERPLEXITY)
        if count >= FEW_ROWS and not (by_row and count * max_drop < 1):
            return None
        one = f", where one alone is {1 / count:.2g} of {self.metric}" if by_row else ""
        return f"the size was decided by only {count} rows{one}: give more training rows, of which a quarter decides"

    def _too_wide(self, max_drop: float, drop: Metric) -> str | None:
        """Word a warning where the interval of the loss reaches far beyond what is allowed; else give None."""
        if drop.high <= FAR * max_drop:
            return None
        return (
            f"{shown(drop.value)} of {self.metric} is lost on {self.about}, but it may be up to {shown(drop.high)} "
            f"(95 %), more than {FAR} times what `max_drop={max_drop:g}` allows: give more training rows"
        )


def check_metric(task: Task, metric: str | None) -> None:
    """Refuse a metric that a task does not have, before a model is judged by it; None is its first one.

    Raises:
        InvalidOption: names those that there are.
    """
    known = dict.fromkeys([*task.metrics, *RELATIVE])
    if metric is not None and metric not in known:
        raise unknown_name("metric", metric, known)


def by_the_dense(project: Project) -> Project:
    """Make the same project that judges a model by how near it is to the dense one, on the rows of its task."""
    return replace(project, task=replace(plugins.load("tasks", "text"), encoded_by=project.task))


def guarded(project: Project, metric: str | None) -> Guard:
    """Make the guard of a project that holds a metric of the task, or one that compares with the dense model.

    Raises:
        DataError: the project has no guard rows.
        InvalidOption: the metric is not one that is measured.
        LabelError: it needs labels, and the guard rows have none.
    """
    check_metric(project.task, metric)
    rows, own = project.guard_rows, list(project.before)
    if rows is None:
        raise DataError("no rows are set aside to decide by: use project.with_guard()")
    held = metric or own[0]
    if held not in own:
        project = by_the_dense(project)
    try:
        before = project.evaluate(project.model, rows)
    except DataError as error:
        if held in RELATIVE:
            raise
        raise LabelError(
            f"{held} cannot be measured on the rows set aside ({first_line(error)}): give the training rows labels, or "
            f"hold how far answers are from the original's, {BY_THE_DENSE}"
        ) from error
    if held not in before:
        raise unknown_name("metric", held, dict.fromkeys([*own, *before]))
    return Guard(project, rows, held, before)
