"""How metrics are read: which way is better, what is lost between two values, and how a value is written."""

from __future__ import annotations

from dataclasses import dataclass

DISTANCES = ("kl", "squared_distance")
"""From the dense model, which is at 0."""
PERPLEXITY = "perplexity"
LOWER_IS_BETTER = (*DISTANCES, PERPLEXITY)
FOUR_DECIMALS, TWO_DECIMALS = 10, 100_000
"""Below these a value has so many; above them, two digits and a power of ten."""


def loss(name: str, before: float, after: float) -> float:
    """How much worse a metric became, positive if it did: the difference; of a perplexity, the share by which it rose.

    >>> loss("accuracy", 0.9, 0.87) > 0, loss("perplexity", 20.0, 21.0)
    (True, 0.05)
    """
    if name == PERPLEXITY:
        return (after - before) / before
    return after - before if name in LOWER_IS_BETTER else before - after


def shown(value: float, sign: str = "", *, beside: float = 0.0) -> str:
    """A value as people read it; `sign="+"` also marks those above zero.

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
    """One evaluated number, with what it was measured on."""

    value: float
    sample_size: int
    low: float
    high: float
    """95 % bootstrap interval over rows."""


Metrics = dict[str, Metric]
"""By metric name; the first is the one the task is judged by. Higher is better, except `kl` and `squared_distance`."""
