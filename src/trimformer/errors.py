"""Errors and warnings of the package: each message says what is wrong, where, and the next step.

Messages name an option as the parameter in Python, in backticks: `damping=0.3`. The command line translates them.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Real
from typing import Any

MOST_LISTED = 40
"""Most names that an error lists; of more it gives the number."""


class TrimformerError(Exception):
    """Base of every error that trimformer raises on purpose; the command line prints it and exits with 2."""


class InvalidOption(TrimformerError, ValueError):
    """A value outside its range, or a name that is not known."""


class UnsupportedModel(TrimformerError):
    """A model that cannot be pruned, such as one whose architecture is not known or whose modules are elsewhere."""


class DataError(TrimformerError):
    """Rows that are missing, too few, damaged or of the wrong kind."""


class LabelError(DataError):
    """Rows without the labels that were asked for, or with wrong ones."""


class CheckpointError(TrimformerError):
    """A checkpoint that cannot be read or written."""


class NumericalError(TrimformerError):
    """NaN, infinity or a singular system; the message names the site and the remedy."""


class InsufficientMemory(TrimformerError):
    """Work that needs more memory than there is; the message says how much, and what would need less."""


class UnreachableTarget(TrimformerError):
    """A target, such as a budget or a largest loss of accuracy, that nothing tried can meet."""


class ProcessLost(TrimformerError):
    """The loss of another of the processes that work together: it has ended, or never came."""


class TrimformerWarning(UserWarning):
    """A warning that a result may be worse than it need be, such as one of few tokens; in the manifest as well."""


def caution(message: str) -> None:
    """Issue a `TrimformerWarning` at the line of the user's that led here; the command line shows it in its own way."""
    frame, level = sys._getframe(1), 2  # noqa: SLF001  # `skip_file_prefixes` of Python 3.12 does the same
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, TrimformerWarning, stacklevel=level)


def require_range(
    name: str, value: Any, *, low: float = 0.0, high: float = math.inf, low_included: bool = True
) -> None:
    """Refuse a number outside `[low, high]`, or `(low, high]`; infinity and NaN are outside every range.

    Raises:
        InvalidOption: a number outside, or no number; names the option, its value and what it must be.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)  # those of numpy too
    if not is_number:
        raise InvalidOption(f"`{name}={value!r:.60}` must be a number")
    if math.isfinite(value) and (low <= value if low_included else low < value) and value <= high:
        return
    floor = f"{'at least' if low_included else 'above'} {as_given(low)}"
    ceiling = "" if high == math.inf else f" and at most {as_given(high)}"
    raise InvalidOption(f"`{name}={as_given(value)}` is out of range: it must be {floor}{ceiling}")


WHOLE_BELOW = 1e15
"""Floats below this hold whole numbers exactly, and are written as such."""


def as_given(number: float) -> str:
    """Write a number as people type it: whole ones below 10^15 without a point or an exponent.

    >>> as_given(100000.0), as_given(2**32 - 1), as_given(0.25), as_given(1e-20)
    ('100000', '4294967295', '0.25', '1e-20')
    """
    is_whole = math.isfinite(number) and abs(number) < WHOLE_BELOW and number == int(number)
    return str(int(number)) if is_whole else str(number)


def unknown_name(kind: str, name: Any, known: Iterable[str]) -> InvalidOption:
    """Make the error for a name that is not known, with the nearest known one, and all of them if they are few."""
    names = sorted(known)
    nearest = get_close_matches(str(name).lower(), names, n=1) or [each for each in names if f"_{name}" in each][:1]
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    listed = ", ".join(names) if len(names) <= MOST_LISTED else f"{len(names)} names, see the documentation"
    return InvalidOption(f"unknown {kind} {name!r}.{hint} Known: {listed}")


def first_line(error: Exception) -> str:
    """Give the first line of an error's text without its full stop, or the error's class where it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".;")


@contextmanager
def reading(what: object, remedy: str, kind: type[TrimformerError] = DataError) -> Iterator[None]:
    """Within the context, an error of any kind becomes one of ours, in a line: `cannot read …: why; what to do`.

    For a user's file in the hands of another library's parser, and nothing else: a parser meets damage with errors of
    any class, and code of our own within the context would lose the trace of its bugs. Our own errors pass unchanged.
    """
    try:
        yield
    except TrimformerError:
        raise
    except Exception as error:
        raise kind(f"cannot read {what}: {first_line(error)}; {remedy}") from error
