"""How far pruned models are from their original on unseen text, by the number of calibration tokens.

    python benchmarks/tokens.py sst2 ../shared/models/minilm-sst2 ../shared/data/glue/sst2 --tokens 5000 20000

Divergence of the predictions (KL in nats, or squared distance of numbers), averaged over up to 1,000 training rows that
are set aside; nothing is judged by evaluation rows. Cost in forward passes of the calibration tokens, by CPU time;
measuring is part of that of the first share (`with_measuring`). Results are added to `benchmarks/results/tokens.jsonl`,
an object a line; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import trimformer
from trimformer import Budget, Project, plugins
from trimformer.cli.options import number_or_word
from trimformer.judging.guard import by_the_dense
from trimformer.judging.metrics import DISTANCES
from trimformer.model.manifest import versions
from trimformer.observing.resources import Machine
from trimformer.pruning.pruner import Pruner
from trimformer.training.stages import spending

RESULTS = Path(__file__).parent / "results" / "tokens.jsonl"
SHARES = (0.2, 0.1)


def main() -> None:
    """Prune, compare, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("model", help="checkpoint folder")
    parser.add_argument("data", help="folder of rows")
    parser.add_argument("--methods", nargs="+", default=["surgeon"])
    parser.add_argument("--tokens", nargs="+", type=number_or_word, default=[5_000, 10_000, 20_000, 50_000, 100_000])
    parser.add_argument("--flops", nargs="+", type=float, default=SHARES, help="shares kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="options of the methods")
    asked = parser.parse_args()
    options = dict(each.split("=", 1) for each in asked.set)
    known = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = [{name: row[name] for name in _about(asked, "", 0, 0.0, {})} for row in known]
    project = _project(asked.task, asked.model, asked.data, asked.seed)
    for method in asked.methods:
        for tokens in asked.tokens:
            missing = [share for share in asked.flops if _about(asked, method, tokens, share, options) not in done]
            if not missing:
                continue
            pruner = project.pruner(
                method=method, calibration_tokens=tokens, seed=asked.seed, options=options, judged=False
            )
            for share, found in zip(missing, _results(project, pruner, missing), strict=True):
                row = _about(asked, method, tokens, share, options) | found
                with RESULTS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def _about(
    asked: argparse.Namespace, method: str, tokens: int | str, share: float, options: dict[str, str]
) -> dict[str, Any]:
    about = {"task": asked.task, "model": Path(asked.model).name, "seed": asked.seed}
    return about | {"method": method, "options": options, "calibration_tokens": tokens, "flops": share}


def _project(task: str, model: str, data: str, seed: int) -> Project:
    """Load a model and its rows, of which some are set aside."""
    chosen = plugins.load("tasks", task)
    dense = trimformer.load_model(model, chosen.auto_class).eval()
    train, validation = (chosen.rows(data, split) for split in ("train", "validation"))
    project = Project(dense, trimformer.load_tokenizer(model), chosen, train, validation, progress=False)
    return project.with_guard(seed)


def _results(project: Project, pruner: Pruner, shares: list[float]) -> Iterator[dict[str, Any]]:
    """Prune to every share, and compare with the original on the rows that are set aside."""
    compared, rows = by_the_dense(project), project.guard_rows
    with torch.inference_mode(), spending() as forward:
        for batch in pruner.calibration.batches:
            project.model(**batch)
    for number, share in enumerate(shares):
        with spending() as spent:
            pruned = pruner.prune(Budget(flops=share))
        found = next(value for name, value in compared.evaluate(pruned.model, rows).items() if name in DISTANCES)
        yield {
            "tokens": pruned.facts.calibration.tokens,
            "divergence": round(found.value, 5),
            "rows": found.sample_size,
            "passes": round(spent.cpu_seconds / forward.cpu_seconds, 2),
            "with_measuring": number == 0,
            "threads": torch.get_num_threads(),
            "machine": asdict(Machine.now(project.model.device)),
            "versions": {name: versions()[name] for name in ("trimformer", "torch", "transformers")},
        }


if __name__ == "__main__":
    main()
