"""Results of a comparison: a file with a JSON object a line, which can be trusted line by line.

A row says what was run (`cell`, with everything that decides the outcome), under which labels, and what came out. It
carries a checksum of itself, so that a row that was cut short or changed is recognised and done again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from trimformer.errors import DataError
from trimformer.judging.manifest import DENSE, PRUNED, speedup
from trimformer.judging.metrics import DISTANCES, Metric, Metrics, degradation
from trimformer.model.folders import write_text
from trimformer.model.manifest import checked, plain, read
from trimformer.observing.latency import Latency
from trimformer.observing.resources import Machine
from trimformer.pruning.facts import BudgetFacts, CalibrationFacts, ParameterFacts

CHECKSUM = "checksum"
CHARACTERS = 16


@dataclass(frozen=True, kw_only=True)
class PackedMask:
    """The mask of a site, in few characters."""

    units: int
    kept: str
    """Bits of the mask in order, 1 = kept, as hexadecimal bytes."""

    @classmethod
    def of(cls, mask: Tensor) -> PackedMask:
        """Pack a mask, bool `(units,)`, True = keep; the opposite of `findings.unpacked`."""
        return cls(units=len(mask), kept=np.packbits(mask.cpu().numpy()).tobytes().hex())


@dataclass(frozen=True, kw_only=True)
class WholeCost:
    """All that a result cost, in CPU seconds of all threads: measuring, training and pruning, nothing divided."""

    cpu_seconds: float
    """Of a training that serves several budgets, all of it."""
    forward_cpu_seconds: float
    """CPU seconds of a forward pass of the dense model over all training rows that the task has."""
    shared_by: int = 1
    """Number of budgets that one training served; 1 where each has its own, or nothing was trained."""
    trained_rows: int = 0
    """Rows that were trained on; 0 where nothing was."""

    @property
    def passes(self) -> float:
        """The cost in forward passes over all training rows of the task."""
        return self.cpu_seconds / self.forward_cpu_seconds


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a cell: facts as a manifest has them, and what only a comparison asks for."""

    metrics: Mapping[str, Metrics]
    latency: Mapping[str, Latency]
    budget: BudgetFacts
    kept: Mapping[str, float]
    parameters: ParameterFacts
    calibration: CalibrationFacts
    warnings: tuple[str, ...]
    versions: Mapping[str, str]
    units: Mapping[str, PackedMask]
    """Masks by site."""
    seconds: Mapping[str, float | None]
    """Seconds by stage; `finetuning` is None where the dense model was given."""
    memory_mb: Mapping[str, float]
    """Peak memory while pruning, in MB, by place."""
    threads: int
    forward_seconds: float
    """Seconds of a forward pass over the calibration rows, with which times of pruning are compared."""
    cost: WholeCost | None = None
    """All that it cost; None in rows of an earlier version."""
    single: Mapping[str, Latency] | None = None
    """Measured time of single rows by model, of models that decide row by row."""
    machine: Machine | None = None
    """The machine, when all was judged; None in rows of an earlier version."""

    @property
    def measuring_seconds(self) -> float:
        """Seconds of measuring, and of turning or ordering heads before it: no budget enters either."""
        return (self.seconds["measuring"] or 0.0) + (self.seconds.get("ordering") or 0.0)

    @property
    def pruning_seconds(self) -> float:
        """Seconds from what was measured to the pruned model."""
        return self.seconds["pruning"] or 0.0

    @property
    def finetuning_seconds(self) -> float | None:
        """Seconds of fine-tuning the dense model, or the pruned one where pruning came first; None without any."""
        return self.seconds["finetuning"]


@dataclass(frozen=True)
class Row:
    """The result of one cell: an outcome, or the reason why there is none."""

    task: str
    method: str
    cell: Mapping[str, Any]
    """Everything that decides the outcome; two rows are the same run only if all of it agrees."""
    outcome: Outcome | None
    """Facts of the run; None where it failed."""
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
    def budget(self) -> tuple[str, float]:
        """Name of the cost, and the share of it that was to be kept."""
        return self.cost, self.share

    @property
    def seed(self) -> int:
        """Seed of all sampling."""
        return int(self.cell["seed"])

    @property
    def key(self) -> tuple[str, str, str, float, int]:
        """Labels, cost, share and seed, as `Cell.key`."""
        return self.task, self.method, self.cost, self.share, self.seed

    @property
    def facts(self) -> Outcome:
        """The outcome of a row that did not fail.

        Raises:
            DataError: it failed.
        """
        if self.outcome is None:
            raise DataError(f"{self.method} on {self.task} failed: {self.failure}")
        return self.outcome

    @property
    def whole_cost(self) -> WholeCost:
        """All that the outcome cost.

        Raises:
            DataError: the row is of a version that did not tell.
        """
        if self.facts.cost is None:
            raise DataError(f"{self.method} on {self.task} does not say what it cost: run it again")
        return self.facts.cost

    @property
    def metric(self) -> str:
        """Name of the metric that the task is judged by."""
        return next(iter(self.facts.metrics[DENSE]))

    @property
    def value(self) -> float:
        """Value of the judging metric of the pruned model."""
        return self.facts.metrics[PRUNED][self.metric].value

    @property
    def dense(self) -> Metric:
        """The judging metric of the dense model."""
        return self.facts.metrics[DENSE][self.metric]

    @property
    def divergence(self) -> Metric | None:
        """The pruned model's distance from the dense one, where it stands beside the judging metric."""
        found = self.facts.metrics[PRUNED]
        return next((found[name] for name in DISTANCES if name in found and name != self.metric), None)

    @property
    def degradation(self) -> float:
        """Loss of the judging metric, positive where it became worse; see `metrics.degradation`."""
        return degradation(self.facts.metrics[DENSE], self.facts.metrics[PRUNED], self.metric)

    @property
    def seconds(self) -> float:
        """Seconds from the fine-tuned model to the pruned one; where pruning came first, fine-tuning included."""
        facts = self.facts
        tuned = facts.finetuning_seconds if self.cell["before_finetuning"] else 0.0
        return facts.measuring_seconds + facts.pruning_seconds + (tuned or 0.0)

    @property
    def speedup(self) -> float:
        """Measured median time of the dense model divided by that of the pruned one; NaN where nothing was timed."""
        return speedup(self.facts.latency) or math.nan


class Rows:
    """The rows of a file, none where there is no such file yet; `say` is told of damaged ones."""

    def __init__(self, file: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.file = file
        self.all: list[Row] = []
        whole: list[str] = []
        lines, ended = _lines(file)
        for number, line in enumerate(lines, start=1):
            row = _read(line)
            if row is None:
                say(f"{file}, line {number} is damaged: what it says is not believed, its cell is run again")
            else:
                self.all.append(row)
                whole.append(line)
        self._whole = whole if len(whole) < len(lines) or not ended else None

    def find(self, cell: Mapping[str, Any]) -> Row | None:
        """Find the newest row of exactly this cell, or None."""
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
    """Write a row as a line of JSON with its checksum; numbers that are not finite become null."""
    content = as_facts(row)
    return json.dumps({**content, CHECKSUM: _checksum(content)}, ensure_ascii=False, allow_nan=False)


def as_facts(row: Row) -> dict[str, Any]:
    """Turn a row into plain JSON; numbers that are not finite become None."""
    facts = {"task": row.task, "method": row.method, "cell": row.cell, "outcome": row.outcome, "failure": row.failure}
    return {name: _finite(plain(value)) for name, value in facts.items()}


def _read(line: str) -> Row | None:
    """Read the row in a line; None where it is damaged or of a version whose outcomes are others."""
    try:
        content = checked(dict, json.loads(line), "the line")
        if content.pop(CHECKSUM, None) != _checksum(content):
            return None
        row: Row = read(Row, content)
    except (ValueError, RecursionError, DataError):
        return None
    return row


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:CHARACTERS]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(file: Path) -> tuple[list[str], bool]:
    """Read the lines of a file that are not blank, and whether the last one is ended."""
    try:
        text = file.read_bytes().decode("utf-8", "replace") if file.exists() else ""
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    return [line for line in text.split("\n") if line.strip()], not text or text.endswith("\n")


def _replace(file: Path, lines: list[str]) -> None:
    write_text("".join(line + "\n" for line in lines), file)
