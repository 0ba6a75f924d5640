"""How long work takes is shown by whoever calls: the shape of a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Progress = Callable[[Sequence[Any], str], Any]
"""Wraps a sequence to show a bar while it is walked: `for batch in progress(batches, "calibrating")`."""
