"""Reading metrics: which way is better, what is lost between two values, and how a value is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

DISTANCES = ("kl", "squared_distance")
"""Metrics that are distances from the dense model, which itself is at 0."""
RELATIVE = (*DISTANCES, "agreement", "cosine_to_dense")
"""Metrics that compare a model's answers with the dense model's."""
PERPLEXITY = "perplexity"
LOWER_IS_BETTER = (*DISTANCES, PERPLEXITY)
COUNTED = {PERPLEXITY: "tokens"}
"""What the sample of a metric consists of, by metric; rows, where it is not named."""
FOUR_DECIMALS, TWO_DECIMALS = 10, 100_000
"""Sizes below which a value is written with so many decimals; from the second on, as two digits and a power of ten."""


def shown(value: float, sign: str = "", *, beside: float = 0.0) -> str:
    """Write a value as people read it; `sign="+"` also marks those above zero.

    Args:
        value: of a metric, or a difference of two.
        sign: `+` or nothing.
        beside: a larger value that it stands beside, in as many decimals.

    >>> shown(0.86712), shown(14.67), shown(-31.5, "+"), shown(2.5e7), shown(0.123, beside=14.67)
    ('0.8671', '14.67', '-31.50', '2.5e+07', '0.12')
    """
    size = max(abs(value), abs(beside))
    kind = ".4f" if size < FOUR_DECIMALS else ".2f" if size < TWO_DECIMALS else ".1e"
    return format(value, f"{sign}{kind}")


@dataclass(frozen=True)
class Metric:
    """One evaluated number, with its interval and the size of the sample that it was measured on."""

    value: float
    sample_size: int
    """Number of rows; of a perplexity, of predicted tokens."""
    low: float
    high: float
    """Upper end of the 95 % bootstrap interval over rows; `low` is the lower one."""
    resamples: Any = field(default=None, compare=False, repr=False)
    """Values of the bootstrap's resamples, an array, the same rows in each for every model; None of a single row."""


Metrics = Mapping[str, Metric]
"""Metrics by name; the first is the one the task is judged by. Higher is better, except for `LOWER_IS_BETTER`."""
BRACKETS, WORDS = "[{}, {}]", "{} to {}"
"""Two ways to write an interval."""


def interval(metric: Metric, form: str = BRACKETS) -> str:
    """Write a metric's 95 % interval.

    >>> interval(Metric(0.5, 10, 0.25, 0.75)), interval(Metric(0.5, 10, 0.25, 0.75), WORDS)
    ('[0.2500, 0.7500]', '0.2500 to 0.7500')
    """
    return form.format(shown(metric.low), shown(metric.high))


def sample(name: str, metric: Metric) -> str:
    """Write the size of a metric's sample with its unit.

    >>> sample("accuracy", Metric(0.5, 872, 0.4, 0.6)), sample("perplexity", Metric(14.7, 46454, 14.2, 15.1))
    ('872 rows', '46,454 tokens')
    """
    return f"{metric.sample_size:,} {COUNTED.get(name, 'rows')}"


Number = TypeVar("Number")
"""A number, or an array of them."""


def worse_by(name: str, old: Number, new: Number) -> Number:
    """Tell how much worse the value of a metric became, as `degradation` does.

    >>> worse_by("accuracy", 0.75, 0.5), worse_by("perplexity", 20.0, 21.0), worse_by("kl", 0.0, 0.125)
    (0.25, 0.05, 0.125)
    """
    before: Any = old
    after: Any = new
    if name in DISTANCES:
        return new
    if name == PERPLEXITY:
        return (after - before) / before  # type: ignore[no-any-return]  # of the kind that it was given
    return after - before if name in LOWER_IS_BETTER else before - after  # type: ignore[no-any-return]  # as above


def degradation(before: Metrics, after: Metrics, name: str | None = None) -> float:
    """Tell how much worse a model became, positive if it did.

    It is the difference of a metric; of a perplexity, the share by which it rose; of a distance from the dense model,
    the distance itself.

    Args:
        before: of the dense model.
        after: of the other one.
        name: of the metric; None takes the first one, or the distance where a model is judged by the dense one alone.

    >>> perplexity = [{"perplexity": Metric(value, 10, value, value)} for value in (20.0, 21.0)]
    >>> degradation(*perplexity)
    0.05
    """
    first = next(iter(before))
    name = name or (next((each for each in DISTANCES if each in after), first) if first in RELATIVE else first)
    return worse_by(name, 0.0 if name in DISTANCES else before[name].value, after[name].value)
