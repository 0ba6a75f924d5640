"""Parameters that Python, the command line and compare files share; here those of where a model is put.

A parameter's text, default and check stand in one place. Nothing heavy is imported: `trimformer --help` reads this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from trimformer.errors import InvalidOption, require_range

KINDS: dict[type, tuple[type, str]] = {int: (Integral, "a whole number"), float: (Real, "a number"), str: (str, "text")}
"""By kind, the type that a value must be of, which NumPy's numbers are of too, and how messages call it."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter: its meaning, its default, and the values that it may have.

    >>> Parameter(name="batch_size", text="Rows at once.", kind=int, low=1).check(0)
    Traceback (most recent call last):
    trimformer.errors.InvalidOption: `batch_size=0` is out of range: it must be at least 1
    """

    name: str
    text: str
    """A sentence, for the command line's help and for docstrings alike."""
    kind: type[int | float | str] = str
    default: Any = None
    low: float = -math.inf
    high: float = math.inf
    words: tuple[str, ...] = ()
    """Words that it may be in place of a value of its kind."""
    choices: tuple[str, ...] = ()
    """All values that it may have; empty for any."""
    needed: bool = False
    """Whether None is no value of it; of other parameters None means that nobody said."""

    def check(self, value: Any) -> Any:
        """Give a value back if the parameter may have it; None, which means that nobody said, unless it is needed.

        Raises:
            InvalidOption: names the parameter, its value, and what it must be.
        """
        if (value is None and not self.needed) or (isinstance(value, str) and value in self.words):
            return value
        if self.choices and not (isinstance(value, str) and value in self.choices):
            raise InvalidOption(f"`{self.name}={value}` must be one of {', '.join(self.choices)}")
        if not _is_of(self.kind, value):
            raise InvalidOption(
                f"`{self.name}={value!r:.60}` must be {' or '.join((KINDS[self.kind][1], *self.words))}"
            )
        if self.kind is not str:
            require_range(self.name, value, low=self.low, high=self.high)
        return value


def _is_of(kind: type, value: Any) -> bool:
    return isinstance(value, KINDS[kind][0]) and not isinstance(value, bool)


DEVICE = Parameter(
    name="device", text="Where to compute: cpu, cuda, or auto: a GPU if there is one.", default="auto", needed=True
)
DTYPE = Parameter(
    name="dtype",
    text="Precision of the weights: float32, bfloat16, float16, or auto: that of the checkpoint.",
    default="float32",
    choices=("auto", "float32", "bfloat16", "float16"),
    needed=True,
)
DEVICE_MAP = Parameter(
    name="device_map", text="auto: spread the model over GPU, CPU memory and disk; pruned block by block."
)
MAX_MEMORY = Parameter(
    name="max_memory", text="What a device map may fill, such as 0=10GiB,cpu=20GiB; else all that is free."
)
