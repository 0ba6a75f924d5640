"""The manifest's plain form: how facts become JSON that a person can read."""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

NUMBERS_ONE_A_LINE = re.compile(r'\[\n\s+([^\[\]{}"]*?)\n\s+\]')


def as_text(facts: Any) -> str:
    """Indented JSON, with every list of numbers in one line.

    >>> print(as_text({"curve": [0.0, 1.5], "tokens": 7}), end="")
    {
      "curve": [0.0, 1.5],
      "tokens": 7
    }
    """
    return NUMBERS_ONE_A_LINE.sub(_in_one_line, json.dumps(facts, indent=2)) + "\n"


def _in_one_line(numbers: re.Match[str]) -> str:
    return f"[{' '.join(numbers[1].split())}]"


MANIFEST = "trimformer.json"


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder; an empty one where there is none that can be read."""
    try:
        content = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {
        "trimformer": version("trimformer"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
