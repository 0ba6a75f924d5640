"""What a manifest says, in words and rows: shared by the report page and the model card.

Counts (FLOPs, parameters) and measurements (time, metrics) stay apart: a count is never called a speed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from trimformer.judging.metrics import shown
from trimformer.model.sites import place

Facts = Mapping[str, Any]
COSTS = {
    "flops": "FLOPs of attention and FFN",
    "params": "parameters of attention and FFN",
    "latency": "time of the whole model, added up from measured parts",
}
STAGES = {
    "measuring": "measuring, on the calibration rows",
    "pruning": "choosing, cutting and refitting",
    "judging": "judging the pruned model, and timing both",
}
UNIT_NAMES = {"head": "heads", "neuron": "neurons"}
MOST_CELLS = 32


@dataclass(frozen=True)
class Share:
    """A share of the dense model, as text: what was asked for, what the count reached, what was measured."""

    what: str
    detail: str
    asked: str = ""
    reached: str = ""
    measured: str = ""


@dataclass(frozen=True)
class MetricRow:
    """A metric before and after."""

    name: str
    dense: Mapping[str, float]
    pruned: Mapping[str, float]

    @property
    def change(self) -> float:
        """Pruned minus dense."""
        return self.pruned["value"] - self.dense["value"]


@dataclass(frozen=True)
class Units:
    """Units of one kind that a block keeps."""

    kind: str
    kept: int
    of: int
    cells: str
    """Which ones, `#` kept and `.` removed, in order; empty where they are too many to draw one by one."""

    @property
    def percent(self) -> float:
        """Kept, of 100."""
        return 100 * self.kept / self.of if self.of else 0.0


@dataclass(frozen=True)
class Stage:
    """One stage of making a result."""

    key: str
    what: str
    seconds: float
    memory_mb: Mapping[str, float]
    """Peak, by place: `host`, and a GPU where there was one; empty where it was not measured."""


def percent(share: float) -> str:
    """A share as text, with a space that does not break."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def interval(metric: Mapping[str, float]) -> str:
    """A metric's 95 % interval as text."""
    return f"{shown(metric['low'])} to {shown(metric['high'])}"


def name(facts: Facts) -> str:
    """The dense model's name, without the folder that it is in."""
    source = str(facts.get("source", "model"))
    return PurePath(source).name or source


def verdict(facts: Facts) -> str:
    """The result in one sentence."""
    budget = facts["budget"]
    said = f"Keeps {percent(budget['reached'])} of the {cost_name(budget['cost'])}"
    share = latency_share(facts)
    if share is not None:
        said += f" and runs in {percent(share)} of the dense model's time"
    for row in metrics(facts)[:1]:
        said += f"; {change(row)}"
    return f"{said}."


def cost_name(cost: str) -> str:
    """What a budget is of, in words."""
    return COSTS.get(cost, cost)


def short_cost(cost: str) -> str:
    """A cost in one word, for axes and column heads."""
    return cost_name(cost).partition(" of ")[0]


def change(row: MetricRow) -> str:
    """A metric before and after in a few words, with rows and interval."""
    return (
        f"{row.name} {shown(row.dense['value'])}\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}{shown(row.pruned['value'])} "
        f"(n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{row.pruned['sample_size']}, "
        f"95\N{NO-BREAK SPACE}% interval {interval(row.pruned)})"
    )


def latency_share(facts: Facts) -> float | None:
    """Measured median time of the pruned model against that of the dense one; None where it was not measured."""
    if "latency" not in facts:
        return None
    return float(facts["latency"]["pruned"]["median_ms"] / facts["latency"]["dense"]["median_ms"])


def parameter_share(facts: Facts) -> float:
    """Parameters of the whole pruned model against those of the dense one."""
    return float(facts["parameters"]["pruned"] / facts["parameters"]["dense"])


def shares(facts: Facts) -> list[Share]:
    """Asked, reached and measured, one row a quantity."""
    budget, rows = facts["budget"], []
    for cost, kept in facts["kept"].items():
        asked = f"at most {percent(budget['asked'])}" if cost == budget["cost"] and "guard" not in facts else ""
        rows.append(Share(COSTS.get(cost, cost), "", asked, percent(kept)))
    dense, pruned = facts["parameters"]["dense"], facts["parameters"]["pruned"]
    rows.append(
        Share(
            "parameters of the whole model", f"{dense / 1e6:.2f} M → {pruned / 1e6:.2f} M", "", percent(pruned / dense)
        )
    )
    if latency_share(facts) is not None:
        times = facts["latency"]
        detail = f"{times['dense']['median_ms']:.1f} ms → {times['pruned']['median_ms']:.1f} ms a batch"
        rows.append(Share("time", detail, "", "", percent(latency_share(facts) or 0)))
    if "guard" in facts:
        guard = facts["guard"]
        rows.append(
            Share(
                f"loss on {guard['rows']} rows set aside",
                "",
                f"at most {guard['max_drop']:g}",
                "",
                f"{guard['drop']:.4f}",
            )
        )
    return rows


def metrics(facts: Facts) -> list[MetricRow]:
    """Metrics measured on both models; the first is the one that the task is judged by."""
    measured = facts.get("metrics", {"dense": {}, "pruned": {}})
    return [
        MetricRow(name, measured["dense"][name], pruned)
        for name, pruned in measured["pruned"].items()
        if name in measured["dense"]
    ]


def remarks(facts: Facts) -> list[str]:
    """How far the numbers go."""
    said = []
    for row in metrics(facts)[:1]:
        overlap = row.pruned["high"] >= row.dense["low"] and row.dense["high"] >= row.pruned["low"]
        said.append(f"The {row.name} intervals of both models {'overlap' if overlap else 'do not overlap'}.")
    if "latency" in facts:
        time, dense = facts["latency"]["pruned"], facts["latency"]["dense"]
        said.append(
            f"{timing(time)} Quartiles: dense {dense['low_ms']:.1f} to {dense['high_ms']:.1f} ms, pruned "
            f"{time['low_ms']:.1f} to {time['high_ms']:.1f} ms."
        )
    if "workload" in facts:
        length = facts["workload"]["sequence_length"]
        said.append(f"FLOPs are counted at {length:.1f} tokens; they are not a measure of speed.")
    if facts.get("already_pruned"):
        said.append("The model given had been pruned before: shares are of what was there.")
    return said


def blocks(facts: Facts) -> list[tuple[int, list[Units]]]:
    """By block, what is kept of each kind of unit."""
    which = {_units_of(site): pattern for site, pattern in facts.get("patterns", {}).items()}
    rows = []
    for row in facts["units"]:
        kinds = [key for key in row if f"{key}_of" in row]
        units = [_units(kind, row[kind], row[f"{kind}_of"], which.get((row["block"], kind))) for kind in kinds]
        rows.append((row["block"], units))
    return rows


def _units(kind: str, kept: int, of: int, pattern: str | None) -> Units:
    cells = pattern or "#" * kept + "." * (of - kept)
    return Units(kind, kept, of, cells if of <= MOST_CELLS else "")


def removed(facts: Facts) -> dict[str, float]:
    """By site that has a removal curve, the share of its units that is gone."""
    kept = {(block, unit.kind): unit for block, units in blocks(facts) for unit in units}
    return {site: 1 - kept[_units_of(site)].percent / 100 for site in facts.get("curves", {})}


def _units_of(site: str) -> tuple[int, str]:
    """Block and kind of unit that a site's name stands for."""
    block, sublayer = place(site)
    return block, "neuron" if sublayer == "ffn" else "head"


def timing(time: Mapping[str, Any]) -> str:
    """How a time was taken."""
    threads = f"{time['threads']} thread{'s' if time['threads'] != 1 else ''}"
    return (
        f"Time is the median of {time['runs']} forward passes on {time['device']} ({threads}), "
        f"{time['rows']} rows × {time['length']} tokens, the models in turn."
    )


def stages(facts: Facts) -> list[Stage]:
    """What was done, in order, with its time and memory."""
    memory = facts.get("memory_mb", {})
    return [
        Stage(stage, STAGES.get(stage, stage), seconds, memory.get(stage, {}))
        for stage, seconds in facts["seconds"].items()
    ]


def settings(facts: Facts) -> list[tuple[str, str]]:
    """What the result depends on, in the order in which a person asks."""
    calibration = facts["calibration"]
    tokens = (
        f"{calibration['tokens']} tokens in {calibration['sequences']} rows, fingerprint {calibration['fingerprint']}"
    )
    options = ", ".join(f"{name}={value}" for name, value in facts["options"].items())
    rows = [
        ("model", facts.get("source", "")),
        ("task", facts.get("task", "")),
        ("data", facts.get("data", "")),
        ("method", f"{facts['method']}: {options}" if options else facts["method"]),
        ("calibration", tokens),
        ("seed", str(calibration["seed"])),
        ("versions", versions_text(facts["versions"])),
    ]
    return [(what, value) for what, value in rows if value]


def versions_text(versions: Mapping[str, str]) -> str:
    """Versions in one line."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def warnings(results: Sequence[Facts]) -> list[str]:
    """Every warning, once."""
    return list(dict.fromkeys(warning for facts in results for warning in facts.get("warnings", ())))


def loading(facts: Facts, folder: str) -> str:
    """Python lines that load the checkpoint."""
    kind = facts.get("model_class", "AutoModel")
    return (
        f"import trimformer  # registers the checkpoint format\nfrom transformers import {kind}\n\n"
        f"model = {kind}.from_pretrained({json.dumps(folder)})"
    )
