"""Statistics of rows and their bootstrap intervals. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, rankdata

from trimformer.errors import DataError, NumericalError
from trimformer.judging.metrics import DISTANCES, Metric, Metrics, worse_by

Array = NDArray[Any]


RESAMPLES = 1000


CONFIDENCE = 0.95


BOOTSTRAP_NUMBERS = 4_000_000
"""Most resampled numbers held at once; bounds the memory of a bootstrap over many rows."""


class Statistic(Protocol):
    """A function of columns of rows that gives one number along `axis`, finite for every sample, constant ones too."""

    def __call__(self, *columns: Array, axis: int = -1) -> Array:
        """Compute the number of `(…, rows)` columns; the result has their shape without `axis`."""


def metric(statistic: Statistic, *columns: Array | Sequence[float], seed: int = 0) -> Metric:
    """Compute a statistic of rows with its 95 % percentile bootstrap interval (1000 paired resamples of the rows).

    The interval is widened to hold the value itself, which a percentile interval of very few rows can miss; of a
    single row it is the value. Where a model is right on all rows, or on none, every resample says the same: the other
    end is then that of the exact interval of a share (Clopper and Pearson, 1934).

    Args:
        statistic: of the columns, along their last axis.
        columns: `(rows,)` each, of equal length.
        seed: of the resamples.

    Raises:
        DataError: no rows.
        NumericalError: the statistic is not finite.
    """
    arrays = [np.asarray(column) for column in columns]
    size = len(arrays[0])
    if size == 0:
        raise DataError("no rows to compute a metric on: give at least one")
    value = float(statistic(*arrays, axis=-1))
    if not np.isfinite(value):
        raise NumericalError(f"{getattr(statistic, '__name__', statistic)} of {size} rows is {value}: check the model")
    if size == 1:
        return Metric(value, size, value, value)
    found = bootstrap(
        arrays,
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, min(RESAMPLES, BOOTSTRAP_NUMBERS // size)),
        vectorized=True,
        paired=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    low, high = min(value, float(low)), max(value, float(high))
    if statistic is accuracy and value in (0.0, 1.0):
        surely = ((1 - CONFIDENCE) / 2) ** (1 / size)
        low, high = (surely, 1.0) if value else (0.0, 1 - surely)
    return Metric(value, size, low, high, resamples=found.bootstrap_distribution)


def paired_drop(before: Metrics, after: Metrics, name: str) -> Metric:
    """Compute how much worse a model became by one metric, see `degradation`, with its interval over the same rows.

    Both were measured on the same rows, and of as many rows the same are drawn in every resample: so the interval is
    that of the difference, row by row, and far shorter than the two models' own.

    Args:
        before: of the dense model.
        after: of the other one.
        name: of the metric.
    """
    old, new = before[name], after[name]
    value = float(worse_by(name, old.value, new.value))
    if old.resamples is None or new.resamples is None:
        return Metric(value, new.sample_size, value, value)
    beyond = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(worse_by(name, old.resamples, new.resamples), [beyond, 100 - beyond])
    return Metric(value, new.sample_size, min(value, float(low)), max(value, float(high)))


def paired_drops(before: Metrics, after: Metrics, *, incomparable: Sequence[str] = ()) -> Metrics:
    """Compute `paired_drop` of every metric that both models have, where it was measured on several rows.

    A distance from the dense model is its own drop, and is left out, as are metrics named as incomparable.
    """
    both = [name for name in after if name in before and name not in (*DISTANCES, *incomparable)]
    return {
        name: paired_drop(before, after, name)
        for name in both
        if before[name].resamples is not None and after[name].resamples is not None
    }


def mean(*columns: Array, axis: int = -1) -> Array:
    """Average one column over its rows."""
    (values,) = columns
    return np.asarray(np.mean(values, axis=axis, dtype=np.float64))


def accuracy(*columns: Array, axis: int = -1) -> Array:
    """Compute the share of rows where the two columns, `predicted` and `actual`, are equal."""
    predicted, actual = columns
    return np.asarray(np.mean(predicted == actual, axis=axis, dtype=np.float64))


def f1(*columns: Array, axis: int = -1) -> Array:
    """Compute F1 of class 1, `predicted` against `actual` (0 or 1 each); 0 if neither names class 1."""
    predicted, actual = columns[0] == 1, columns[1] == 1
    both = 2.0 * np.sum(predicted & actual, axis=axis)
    either = np.sum(predicted, axis=axis) + np.sum(actual, axis=axis)
    return np.asarray(both / np.maximum(either, 1))


def macro_f1(*columns: Array, axis: int = -1) -> Array:
    """Average the F1 of all classes that `predicted` or `actual` names, class numbers from 0 each; along the last axis.

    It is scikit-learn's `f1_score(average="macro")`.
    """
    predicted, actual = (np.atleast_2d(np.moveaxis(column, axis, -1)) for column in columns)
    samples, classes = len(predicted), int(max(predicted.max(), actual.max())) + 1
    offset = classes * np.arange(samples)[:, None]

    def counted(values: Array, chosen: Array | None = None) -> Array:
        places = values + offset
        found = np.bincount(places.ravel() if chosen is None else places[chosen], minlength=samples * classes)
        return found.reshape(samples, classes)

    either = counted(predicted) + counted(actual)
    both = counted(actual, predicted == actual)
    found = (2.0 * both / np.maximum(either, 1)).sum(1) / (either > 0).sum(1)
    return np.asarray(found.reshape(columns[0].shape[:-1]))


def f1_of_counts(*columns: Array, axis: int = -1) -> Array:
    """Compute F1 over all rows from their counts: what `both` name, `predicted`, `actual`; 0 if there is none."""
    both, predicted, actual = (np.sum(column, axis=axis) for column in columns)
    return np.asarray(2.0 * both / np.maximum(predicted + actual, 1))


def ratio(*columns: Array, axis: int = -1) -> Array:
    """Divide the sum of one column by that of the other, counts each; 0 where the second is 0."""
    part, whole = (np.sum(column, axis=axis) for column in columns)
    return np.asarray(part / np.maximum(whole, 1))


def perplexity(*columns: Array, axis: int = -1) -> Array:
    """Compute `exp` of the mean loss, of sums of losses and counts; at most the largest float64."""
    return np.asarray(np.exp(np.minimum(ratio(*columns, axis=axis), np.log(np.finfo(np.float64).max))))


def matthews(*columns: Array, axis: int = -1) -> Array:
    """Compute Matthews' correlation of two 0/1 columns, which is their Pearson correlation; 0 if one is constant."""
    return pearson(*columns, axis=axis)


def pearson(*columns: Array, axis: int = -1) -> Array:
    """Compute Pearson's correlation of two columns; 0 if one is constant, which tells nothing about the other."""
    first, second = (column - np.mean(column, axis=axis, keepdims=True, dtype=np.float64) for column in columns)
    constant = np.logical_or(*(np.ptp(column, axis=axis) == 0 for column in columns))
    scale = np.sqrt(np.sum(first**2, axis=axis) * np.sum(second**2, axis=axis))
    correlation = np.sum(first * second, axis=axis) / np.where(constant, 1.0, scale)
    return np.where(constant, 0.0, np.clip(correlation, -1.0, 1.0))


def spearman(*columns: Array, axis: int = -1) -> Array:
    """Compute Spearman's rank correlation of two columns, ties at their mean rank; 0 if one is constant."""
    return pearson(*(rankdata(column, axis=axis) for column in columns), axis=axis)
