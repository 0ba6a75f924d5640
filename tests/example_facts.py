"""The record of a result as pruning and judging make it, with believable numbers; tests change what they are about."""

from __future__ import annotations

from typing import Any

from trimformer.judging.manifest import Manifest
from trimformer.model.manifest import read
from trimformer.report.side_by_side import Run

BLOCKS, HEADS, NEURONS = 6, 12, 1536
HOSTILE = "<script>alert('x')</script> & \"quoted\" `code` | pipe"


def metric(value: float, rows: int = 872) -> dict[str, float]:
    return {"value": value, "sample_size": rows, "low": value - 0.0225, "high": value + 0.021}


def latency(median_ms: float) -> dict[str, Any]:
    return {
        "median_ms": median_ms,
        "low_ms": 0.98 * median_ms,
        "high_ms": 1.03 * median_ms,
        "runs": 15,
        "rows": 32,
        "length": 22,
        "device": "cpu",
        "threads": 2,
    }


def facts(share: float = 0.5, **changes: Any) -> Manifest:
    """Everything known of a model of which `share` is kept; `changes` replace entries of its JSON."""
    return Manifest.from_json(plain_facts(share, **changes))


def plain_facts(share: float = 0.5, **changes: Any) -> dict[str, Any]:
    """The same as JSON has it."""
    kept = [min(HEADS, round(HEADS * share * (1.5 - block / BLOCKS))) for block in range(BLOCKS)]
    units = [
        {"block": block, "head": heads, "head_of": HEADS, "neuron": round(NEURONS * share), "neuron_of": NEURONS}
        for block, heads in enumerate(kept)
    ]
    curves = {
        f"encoder.layer.{block}.{sublayer}": [1e-3 * (block + 1) * step**3 for step in range(points)]
        for block in range(BLOCKS)
        for sublayer, points in (("attention", HEADS + 1), ("ffn", 33))
    }
    return {
        "method": "surgeon",
        "options": {"damping": 0.3, "tune": True},
        "source": "some/model",
        "task": "sst2",
        "data": "hub",
        "command": f"trimformer prune some/model --task sst2 --flops {share} --out smaller",
        "model_class": "BertForSequenceClassification",
        "dtype": "float32",
        "processes": 1,
        "kept": {"flops": share - 0.0004, "params": share - 0.002},
        "units": units,
        "patterns": {
            f"encoder.layer.{block}.attention": "." * (HEADS - heads) + "#" * heads for block, heads in enumerate(kept)
        },
        "curves": curves,
        "parameters": {"dense": 22_713_986, "pruned": round(22_713_986 * (0.5 + share / 2))},
        "already_pruned": False,
        "warnings": [],
        "calibration": {
            "tokens": 20013,
            "sequences": 892,
            "mean_length": 22.4,
            "seed": 7,
            "fingerprint": "060e51de8f1a1684",  # pragma: allowlist secret
        },
        "workload": {"sequence_length": 22.4, "batch_size": 32},
        "versions": {"trimformer": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7"},
        "budget": {"cost": "flops", "asked": share, "reached": share - 0.0004, "round_to": 1, "uniform": False},
        "seconds": {"measuring": 12.5, "pruning": 20.25, "judging": 8.0},
        "memory_mb": {
            "measuring": {"host": 1382.4},
            "pruning": {"host": 1134.3, "cuda": 890.1},
            "judging": {"host": 1091.6},
        },
        "metrics": {
            "dense": {"accuracy": metric(0.8739)},
            "pruned": {"accuracy": metric(0.8739 - (1 - share) ** 4 / 5)},
        },
        "latency": {"dense": latency(61.2), "pruned": latency(61.2 * (0.08 + 0.92 * share))},
    } | changes


def runs(**changes: Any) -> list[Run]:
    """A comparison of three methods on two tasks; `changes` replace entries of every run."""
    return [
        run(share, **({"task": task, "method": method, "seed": seed} | changes))
        for task in ("sst2", "mrpc")
        for method in ("surgeon", "kprune", "a method with a rather long label")
        for share in (0.8, 0.4, 0.2)
        for seed in (0, 1)
    ]


def run(share: float = 0.5, **changes: Any) -> Run:
    """One run of a comparison."""
    found: Run = read(Run, plain_facts(share, **changes))
    return found
