"""Accuracy of every method at several sizes on real checkpoints, beside the reference implementations' figures.

    python benchmarks/accuracy.py --methods surgeon kprune --removed 40 60 80 90 --seeds 0 1 2

Every cell is a line of JSON in `benchmarks/results/accuracy.jsonl`; cells that are there are not computed again. The
table is printed and written beside it. Each method × task × seed runs in a process of its own, so that its peak memory
is its own. Needs the checkpoints and data of `../shared`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.jsonl"
TABLE = RESULTS.with_suffix(".md")
LENGTHS = {"stsb": 31.47, "sst2": 25.16, "mrpc": 53.24}
"""Mean lengths at which the reference implementations count FLOPs."""
REFERENCE = {
    "K-prune": {
        "stsb": {40: 0.8641, 60: 0.8535, 80: 0.8200},
        "sst2": {40: 0.8796, 60: 0.8578, 80: 0.8337},
        "mrpc": {40: 0.7786, 60: 0.7757, 80: 0.7629},
    },
    "Mask-Tuning": {
        "stsb": {40: 0.8606, 60: 0.7462, 80: 0.5410},
        "sst2": {60: 0.8360, 80: 0.5092},
        "mrpc": {60: 0.7003, 80: 0.6649},
    },
    "Surgeon prototype": {
        "stsb": {40: 0.868, 60: 0.865, 80: 0.857, 90: 0.8365},
        "sst2": {40: 0.873, 60: 0.865, 80: 0.859, 90: 0.8355},
        "mrpc": {40: 0.795, 60: 0.793, 80: 0.7775, 90: 0.769},
    },
}
"""What the authors' own code of K-prune and Mask-Tuning, and a prototype of Surgeon, reach on these checkpoints (20,000

tokens, 512 sequences, 20,000 tokens; seed 0, the prototype's 80 and 90 % means of two seeds)."""
DENSE = {"stsb": 0.8645, "sst2": 0.8739, "mrpc": 0.7959}
"""The dense models' metrics on the same rows, by `trimformer evaluate`."""
METRICS = {"stsb": "Spearman, n=1500", "sst2": "accuracy, n=872", "mrpc": "accuracy, n=1725"}


def main() -> None:
    """Compute what is missing, then print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["surgeon", "kprune"])
    parser.add_argument("--tasks", nargs="+", default=list(LENGTHS))
    parser.add_argument("--removed", nargs="+", type=int, default=[40, 60, 80, 90], help="per cent of FLOPs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=20_000)
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is missing: this benchmark needs its checkpoints and data")
    RESULTS.parent.mkdir(exist_ok=True)
    for seed in arguments.seeds:
        for method in arguments.methods:
            for task in arguments.tasks:
                _fill_cells(method, task, seed, arguments.removed, arguments.tokens)
    table = format_table(list(_stored()))
    TABLE.write_text(table)
    print(table)


def _fill_cells(method: str, task: str, seed: int, removed: list[int], tokens: int) -> None:
    wanted = {"method": method, "task": task, "seed": seed, "tokens": tokens}
    done = {cell["removed"] for cell in _stored() if wanted.items() <= cell.items()}
    missing = [share for share in removed if share not in done]
    if missing:
        process = multiprocessing.get_context("spawn").Process(target=_compute, args=(wanted, missing))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{method} on {task}, seed {seed}, ended with {process.exitcode}")


def _compute(wanted: dict[str, Any], removed: list[int]) -> None:
    import torch  # noqa: PLC0415  # in the cell's own process only

    from trimformer import Budget, Project, load_model, load_tokenizer, plugins  # noqa: PLC0415

    name, task = str(SHARED / "models" / f"minilm-{wanted['task']}"), plugins.load("tasks", wanted["task"])
    data = str(SHARED / "data" / "glue" / wanted["task"])
    model, tokenizer = load_model(name, task.auto_class), load_tokenizer(name)
    project = Project(model, tokenizer, task, task.rows(data, "train"), task.rows(data, "validation"))
    pruner = project.pruner(
        method=wanted["method"], calibration_tokens=wanted["tokens"], sequence_length=LENGTHS[wanted["task"]],
        seed=wanted["seed"],
    )  # fmt: skip
    forward_seconds = _forward_seconds(model, pruner.calibration.batches)
    for share in removed:
        result = pruner.prune(Budget(flops=1 - share / 100))
        seconds = result.manifest["seconds"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        metric_name, metric = next(iter(task.evaluate(result.model, tokenizer, project.evaluation_rows).items()))
        cell = wanted | {
            "removed": share, "metric": metric_name, "value": metric.value, "rows": metric.sample_size,
            "reached": result.manifest["budget"]["reached"], "seconds": seconds, "peak_gib": peak,
            "forward_seconds": forward_seconds, "threads": torch.get_num_threads(),
            "options": result.manifest["options"], "versions": result.manifest["versions"],
        }  # fmt: skip
        with RESULTS.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        print(
            f"{wanted['method']} {wanted['task']} seed {wanted['seed']} removed {share} %: {metric.value:.4f}",
            flush=True,
        )


def _forward_seconds(model: Any, batches: list[dict[str, Any]]) -> float:
    import torch  # noqa: PLC0415  # as above

    with torch.inference_mode():
        model(**batches[0])
        start = perf_counter()
        for batch in batches:
            model(**batch)
    return perf_counter() - start


def _stored() -> Iterator[dict[str, Any]]:
    for line in RESULTS.read_text().splitlines() if RESULTS.exists() else ():
        yield json.loads(line)


def format_table(cells: list[dict[str, Any]]) -> str:
    """Markdown: a row a task and share, a column a method; mean and spread over seeds, with their number."""
    methods = sorted({cell["method"] for cell in cells}, key=lambda name: (name != "surgeon", name))
    columns = ["task", "FLOPs removed", *methods, *(f"reference {name}" for name in REFERENCE)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for task, metric in METRICS.items():
        shares = sorted({cell["removed"] for cell in cells if cell["task"] == task})
        for share in shares:
            here = [cell for cell in cells if (cell["task"], cell["removed"]) == (task, share)]
            found = [[cell["value"] for cell in here if cell["method"] == method] for method in methods]
            references = [values.get(task, {}).get(share) for values in REFERENCE.values()]
            shown = [_spread(values) for values in found] + ["–" if r is None else f"{r:.4f}" for r in references]
            lines.append(f"| {task} ({metric}) | {share} % | {' | '.join(shown)} |")
    dense = ", ".join(f"{task} {value:.4f}" for task, value in DENSE.items())
    note = textwrap.fill(
        f"MiniLM-L6 fine-tuned on each task, 20,000 calibration tokens, all validation rows. Dense: {dense}. "
        "Mean ± standard deviation over the seeds whose number is in brackets. Reference columns: the authors' code "
        "of K-prune and Mask-Tuning on the same checkpoints, and a prototype of Surgeon. Times with one thread, beside "
        "other work on the machine.",
        width=130,
    )
    return "\n".join([*lines, "", note, "", *_costs(cells, methods)]) + "\n"


def _costs(cells: list[dict[str, Any]], methods: list[str]) -> Iterator[str]:
    yield "| method | first budget ÷ forward pass | further budget ÷ forward pass | seconds, first budget | peak GiB |"
    yield "|---|---|---|---|---|"
    for method in methods:
        own = [cell for cell in cells if cell["method"] == method]
        pruning = statistics.median(cell["seconds"]["pruning"] / cell["forward_seconds"] for cell in own)
        measuring = statistics.median(cell["seconds"]["measuring"] / cell["forward_seconds"] for cell in own)
        seconds = statistics.median(sum(cell["seconds"].values()) for cell in own)
        peak = max(cell["peak_gib"] for cell in own)
        yield f"| {method} | {measuring + pruning:.1f} | {pruning:.1f} | {seconds:.0f} | {peak:.1f} |"


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread} ({len(values)})"


if __name__ == "__main__":
    main()
