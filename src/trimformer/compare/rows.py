"""Results of a comparison: a file with a JSON object a line, which can be trusted line by line.

A row says what was run (`cell`, with everything that decides the outcome), under which labels, and what came out. It
carries a checksum of itself, so that a row that was cut short or changed is recognised and done again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from trimformer.errors import DataError

CHECKSUM = "checksum"
CHARACTERS = 16


@dataclass(frozen=True)
class Row:
    """One cell's result."""

    task: str
    method: str
    cell: Mapping[str, Any]
    """Everything that decides the outcome; two rows are the same run only if all of it agrees."""
    outcome: Mapping[str, Any] | None
    """Metrics, costs and facts; None where it failed."""
    failure: str | None = None

    @property
    def share(self) -> float:
        """Share of the cost that was to be kept."""
        return float(self.cell["budget"]["share"])

    @property
    def cost(self) -> str:
        """Name of the cost."""
        return str(self.cell["budget"]["cost"])

    @property
    def seed(self) -> int:
        """Of all sampling."""
        return int(self.cell["seed"])

    @property
    def key(self) -> tuple[str, str, str, float, int]:
        """As `Cell.key`."""
        return self.task, self.method, self.cost, self.share, self.seed

    @property
    def facts(self) -> Mapping[str, Any]:
        """The outcome of a row that did not fail.

        Raises:
            DataError: it failed.
        """
        if self.outcome is None:
            raise DataError(f"{self.method} on {self.task} failed: {self.failure}")
        return self.outcome

    @property
    def metric(self) -> str:
        """Name of the metric that the task is judged by."""
        return str(next(iter(self.facts["metrics"]["dense"])))

    @property
    def value(self) -> float:
        """That metric of the pruned model."""
        return _number(self.facts["metrics"]["pruned"][self.metric]["value"])

    @property
    def dense(self) -> float:
        """That metric of the dense model."""
        return _number(self.facts["metrics"]["dense"][self.metric]["value"])

    @property
    def sample_size(self) -> int:
        """Rows that the metric was measured on."""
        return int(self.facts["metrics"]["dense"][self.metric]["sample_size"])

    @property
    def seconds(self) -> float:
        """From the fine-tuned model to the pruned one, or, where pruning came first, to the fine-tuned pruned one."""
        seconds = self.facts["seconds"]
        tuned = seconds["finetuning"] if self.cell["before_finetuning"] else 0.0
        return float(seconds["measuring"] + seconds["pruning"] + tuned)

    @property
    def speedup(self) -> float:
        """Measured median time of the dense model against that of the pruned one."""
        latency = self.facts["latency"]
        return float(latency["dense"]["median_ms"] / latency["pruned"]["median_ms"])


class Rows:
    """The rows of a file. `say` is told of damaged ones."""

    def __init__(self, file: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.file = file
        self.all: list[Row] = []
        whole: list[str] = []
        for number, line in enumerate(_lines(file), start=1):
            row = _read(line)
            if row is None:
                say(f"{file}, line {number} is damaged: what it says is not believed, its cell is run again")
            else:
                self.all.append(row)
                whole.append(line)
        self._whole = whole if len(whole) < len(list(_lines(file))) or not _ends_in_newline(file) else None

    def find(self, cell: Mapping[str, Any]) -> Row | None:
        """The newest row of exactly this cell."""
        return next((row for row in reversed(self.all) if row.cell == cell), None)

    def append(self, row: Row) -> None:
        """Write a row to the end of the file, and to the disk; damaged rows are thrown out first.

        Raises:
            DataError: the file cannot be written.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if self._whole is not None:
                _replace(self.file, self._whole)
                self._whole = None
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(sealed(row) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise DataError(f"cannot write {self.file}: {error.strerror}; check the folder and its disk") from error
        self.all.append(row)


def sealed(row: Row) -> str:
    """A row as a line of JSON with its checksum; numbers that are not finite become null."""
    content = as_facts(row)
    return json.dumps({**content, CHECKSUM: _checksum(content)}, ensure_ascii=False, allow_nan=False)


def as_facts(row: Row) -> dict[str, Any]:
    """A row as plain JSON."""
    facts = {"task": row.task, "method": row.method, "cell": row.cell, "outcome": row.outcome, "failure": row.failure}
    return {name: _finite(value) for name, value in facts.items()}


def _read(line: str) -> Row | None:
    """The row in a line, or None where it is damaged."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.pop(CHECKSUM, None) != _checksum(content):
        return None
    return Row(**content) if content.keys() == {field.name for field in fields(Row)} else None


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:CHARACTERS]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _lines(file: Path) -> Iterator[str]:
    if not file.exists():
        return
    try:
        yield from (line for line in file.read_bytes().decode("utf-8", "replace").split("\n") if line.strip())
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error


def _ends_in_newline(file: Path) -> bool:
    return not file.exists() or file.stat().st_size == 0 or file.read_bytes().endswith(b"\n")


def _replace(file: Path, lines: list[str]) -> None:
    new = file.with_name(f".{file.name}.new")
    new.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    new.replace(file)
