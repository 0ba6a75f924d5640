"""The type of a progress bar; whoever calls the package says how one is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Progress = Callable[[Sequence[Any], str], Any]
"""Function that wraps a sequence to show a bar: `for batch in progress(batches, "calibrating")`."""
