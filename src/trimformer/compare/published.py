"""Published numbers, kept as data with their source, to be printed beside measured ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimformer.compare.settings import Section, read_settings
from trimformer.errors import InvalidOption

KEYS = ("name", "source", "notes", "dense", "metrics", "speedups")


@dataclass(frozen=True)
class Published:
    """Numbers that somebody else measured, with their source.

    Labels of tasks and methods are those of the compare file; shares are shares kept.
    """

    name: str
    source: str
    notes: tuple[str, ...]
    dense: dict[str, float]
    """Metric of the dense model, by task."""
    metrics: dict[tuple[str, str, float], float]
    """Metric by task, method and share of FLOPs kept."""
    speedups: dict[tuple[str, str], float]
    """Largest speed-up over the dense model within a loss of three points, by method and task."""

    def methods(self, tasks: Collection[str]) -> list[str]:
        """List the methods that have a metric on any of these tasks, in order."""
        return list(dict.fromkeys(method for task, method, _ in self.metrics if task in tasks))


def read_published(file: Path) -> Published:
    """Read a file of published numbers: `metrics` is task -> method -> share kept -> value, `speedups` method -> task.

    Raises:
        InvalidOption: whatever is wrong, with its line.
    """
    top = read_settings(file).only(*KEYS)
    for needed in ("name", "source"):
        if not top.text(needed):
            raise InvalidOption(f"{file} has no {needed}: every published number needs one")
    metrics, speedups = top.section("metrics"), top.section("speedups")
    return Published(
        name=str(top["name"]),
        source=str(top["source"]),
        notes=tuple(map(str, top.values_of("notes"))),
        dense={task: _number(top.section("dense"), task) for task in top.section("dense")},
        metrics={
            (task, method, _share(methods, method, share)): _number(methods.section(method), share)
            for task in metrics
            for methods in [metrics.section(task)]
            for method in methods
            for share in methods.section(method)
        },
        speedups={
            (method, task): _number(speedups.section(method), task)
            for method in speedups
            for task in speedups.section(method)
        },
    )


def _number(section: Section, key: str) -> float:
    value: Any = section.number(key, float)
    return float(value)


def _share(methods: Section, method: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidOption(f"{methods.section(method).at(text)}: {text!r} must be a share kept, such as 0.4") from None
