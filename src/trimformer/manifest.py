"""The manifest's plain form: how facts become JSON that a person can read."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

from trimformer.interfaces import Masks, Measured

CURVE_POINTS = 33
PATTERN_UNITS = 64
NUMBERS_ONE_A_LINE = re.compile(r'\[\n\s+([^\[\]{}"]*?)\n\s+\]')
CREDENTIALS = re.compile(r"hf_\w{8,}|(?<=://)[^/@\s]+(?=@)")


def as_text(facts: Any) -> str:
    """Indented JSON, with every list of numbers in one line.

    >>> print(as_text({"curve": [0.0, 1.5], "tokens": 7}), end="")
    {
      "curve": [0.0, 1.5],
      "tokens": 7
    }
    """
    return NUMBERS_ONE_A_LINE.sub(_in_one_line, json.dumps(facts, indent=2)) + "\n"


def command_line(arguments: Sequence[str]) -> str:
    """A command as it can be typed again; tokens and passwords in it become `…`.

    >>> command_line(["prune", "my model", "--flops", "0.4"])
    "trimformer prune 'my model' --flops 0.4"
    """
    return CREDENTIALS.sub("…", shlex.join(["trimformer", *arguments]))


def compact_curves(measured: Measured) -> dict[str, list[float]]:
    """By site, what removing units costs together: at none, at all, and evenly between, at most 33 points.

    Takes every `<site>.cost` that a method measured: the cost of each removal, `(units,)`, in order.
    """
    curves = {}
    for name, cost in measured.items():
        site, _, what = name.rpartition(".")
        if what == "cost" and len(cost):
            steps = min(len(cost), CURVE_POINTS - 1)
            removed = [round(len(cost) * step / steps) for step in range(1, steps + 1)]
            total = cost.double().cumsum(0).tolist()
            curves[site] = [0.0, *(float(f"{total[count - 1]:.4g}") for count in removed)]
    return curves


def patterns(masks: Masks) -> dict[str, str]:
    """By site of at most 64 units, which of them stay: `#` for a kept one, `.` for a removed one."""
    return {
        name: "".join("#" if kept else "." for kept in mask.tolist())
        for name, mask in masks.items()
        if len(mask) <= PATTERN_UNITS
    }


def place(site: str) -> tuple[int, str]:
    """Block and sublayer in a site's name.

    >>> place("encoder.layer.3.attention")
    (3, 'attention')
    """
    _, block, sublayer = site.rsplit(".", 2)
    return int(block), sublayer


def _in_one_line(numbers: re.Match[str]) -> str:
    return f"[{' '.join(numbers[1].split())}]"
