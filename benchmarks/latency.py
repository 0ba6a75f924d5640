"""Latency of minilm-sst2, dense and with half and a quarter of FLOPs kept, in every runtime; all in turn.

    python benchmarks/latency.py [--model FOLDER] [--data FOLDER] [--work FOLDER] [--runs 15] [--threads 1]

Prunes and exports what is not yet in `--work` (some minutes), then times it and writes
`benchmarks/results/latency.json`: times, ratios to the dense model, and the accuracy of every exported file. The
machine should have nothing else to do: models are timed in turn, so that a busy one slows all of them, but the spread
then grows.
"""

from __future__ import annotations

import argparse
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from trimformer.cli import app
from trimformer.export.folder import FACTS
from trimformer.model.folders import write_text

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "benchmarks" / "results" / "latency.json"
SHARES = (0.5, 0.25)
SHAPES = "1x32,32x128"
RUNTIMES = "eager,compile,onnx,int8"


def main() -> None:
    """Prune, export, measure, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "minilm-sst2")
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "glue" / "sst2")
    parser.add_argument("--work", type=Path, default=Path("latency-models"))
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    task = ("--task", "sst2", "--data", arguments.data)
    models = [arguments.model]
    for share in SHARES:
        models.append(arguments.work / f"flops-{share}")
        if not models[-1].exists():
            run("prune", arguments.model, *task, "--flops", share, "--device", "cpu", "--out", models[-1])
    exports = {}
    for model in models:
        out = arguments.work / f"{model.name}-onnx"
        if not out.exists():
            run("export", model, "--onnx", "--int8", *task, "--out", out)
        exports[model.name] = json.loads((out / FACTS).read_text())
    timing = (
        "--device",
        "cpu",
        "--shapes",
        SHAPES,
        "--runtimes",
        RUNTIMES,
        "--runs",
        arguments.runs,
        "--threads",
        arguments.threads,
    )
    facts = run("latency", *models, *timing)
    facts["measured"] = [each | {"model": Path(each["model"]).name} for each in facts["measured"]]
    facts |= {"models": [model.name for model in models], "exports": {n: e["files"] for n, e in exports.items()}}
    facts["versions"] = exports[models[0].name]["versions"]
    write_text(json.dumps(facts, indent=2) + "\n", RESULTS)
    for each in facts["measured"]:
        size = f"{each['rows']} x {each['length']}"
        print(f"{size:9} {each['runtime']:8} {each['model']:14} {each['median_ms']:9.2f} ms  {each['ratio']:.3f}")


def run(*arguments: object) -> Any:
    """What a command of trimformer prints as JSON."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        app.main([*map(str, arguments), "--json"])
    return json.loads(printed.getvalue())


if __name__ == "__main__":
    main()
