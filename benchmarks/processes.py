"""How much faster two processes prune than one, each with one thread, and how near their results are.

    python benchmarks/processes.py MODEL --task sst2 --data FOLDER [--tokens 20000] [--processes 1 2] [--runs 3]

One and several processes take turns, each run in fresh processes. Timed are `measuring`, what serves every budget, and
`pruning`, at 40 % of FLOPs: `wall` seconds, and `cpu` seconds of the process that computes most, which tell more on a
busy machine. Ratios are of medians. Written to `benchmarks/results/processes.json`, method by method.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist

from trimformer import Budget, Project, Pruner, load_model, load_tokenizer, plugins, processes
from trimformer.model.folders import write_text
from trimformer.observing.resources import Machine

RESULTS = Path(__file__).parent / "results" / "processes.json"
KEPT = 0.4
TIMES = ("measuring_wall", "measuring_cpu", "pruning_wall", "pruning_cpu")
LEAST = 0.1
"""Seconds of which a ratio tells something."""


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["surgeon", "kprune"])
    arguments = parser.parse_args()
    about = {"model": Path(arguments.model).name, "task": arguments.task, "tokens": arguments.tokens, "kept": KEPT}
    about |= {"threads_of_a_process": 1}
    for method in arguments.methods:
        facts = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        machine = asdict(Machine.now(torch.device("cpu")))
        facts[method] = about | _compared(arguments, method) | {"machine": machine}
        print(method, json.dumps(facts[method], indent=2), flush=True)
        write_text(json.dumps(facts, indent=2) + "\n", RESULTS)


def _compared(arguments: argparse.Namespace, method: str) -> dict[str, Any]:
    runs: dict[int, list[dict[str, float]]] = {count: [] for count in arguments.processes}
    weights: dict[int, dict[str, torch.Tensor]] = {}
    for _ in range(arguments.runs):
        for count in arguments.processes:
            with tempfile.TemporaryDirectory() as folder:
                _in_processes(count, arguments, method, Path(folder))
                each = [json.loads((Path(folder) / f"{index}.json").read_text()) for index in range(count)]
                weights[count] = load_file(Path(folder) / "weights.safetensors")
            runs[count].append({what: max(seconds[what] for seconds in each) for what in each[0]})
    medians = {count: {what: median(run[what] for run in runs[count]) for what in TIMES} for count in runs}
    alone, *others = arguments.processes
    found: dict[str, Any] = {"runs": {str(count): runs[count] for count in runs}}
    for count in others:
        ratios = {what: medians[count][what] / medians[alone][what] for what in TIMES if medians[alone][what] > LEAST}
        difference = _largest_difference(weights[count], weights[alone])
        found[f"{count} to {alone}"] = {**ratios, "largest_difference_of_weights": difference}
    return found


def _in_processes(count: int, arguments: argparse.Namespace, method: str, folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(index, count, arguments, method, folder)) for index in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        sys.exit(f"a process of {count} failed, see above: nothing was stored")


def _work(index: int, count: int, arguments: argparse.Namespace, method: str, folder: Path) -> None:
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=count)
    task = plugins.load("tasks", arguments.task)
    model, tokenizer = load_model(arguments.model, task.auto_class), load_tokenizer(arguments.model)
    rows = [task.rows(arguments.data, split) for split in ("train", "validation")]
    labels = plugins.load("methods", method).needs_labels
    drawn = Project(model, tokenizer, task, *rows).drawn(arguments.tokens, 0, labels=labels)
    pruner = Pruner(model, drawn, method=method, tokenizer=tokenizer, calibration_tokens=None)
    begin = perf_counter(), process_time()
    _ = pruner.measured
    between = perf_counter(), process_time()
    result = pruner.prune(Budget(flops=KEPT))
    end = perf_counter(), process_time()
    seconds = [between[0] - begin[0], between[1] - begin[1], end[0] - between[0], end[1] - between[1]]
    (folder / f"{index}.json").write_text(json.dumps(dict(zip(TIMES, seconds, strict=True))))
    if processes.is_first():
        save_file(
            {name: each.contiguous() for name, each in result.model.state_dict().items()},
            folder / "weights.safetensors",
        )
    if count > 1:
        dist.destroy_process_group()


def _largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float | str:
    if any(first[name].shape != second[name].shape for name in first):
        return "other units stay"
    return max(float((first[name] - second[name]).abs().max()) for name in first)


if __name__ == "__main__":
    main()
