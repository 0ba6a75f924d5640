"""What is left in pruned SmolLM2s of what they were not calibrated on, and how fast they generate.

    python benchmarks/probes.py                     makes the models, judges them, stores and shows the results
    python benchmarks/probes.py --generation        times those that are there, on an otherwise quiet machine
    python benchmarks/probes.py --table             computes nothing

Models are pruned by WikiText-2's `valid`, blocks not trained, and kept below `~/.cache/trimformer-benchmarks/probes`.
Judged by perplexity and KL on Penn Treebank, and by three small tests of what they know, see `benchmarks/rows.py`.
Results are objects of `benchmarks/results/probes.jsonl`, one a line; what is there is not computed again. The table
goes to `docs/methods.md`. Needs `../shared`, and what `benchmarks/checkpoints.py smollm2` and `rows.py` make.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

import trimformer
from checkpoints import DATA, FOLDER
from generation import rates
from results_to_docs import between_markers
from trimformer import Budget, Project, plugins
from trimformer.judging.project import evaluate
from trimformer.model.folders import whole_folder, write_text
from trimformer.model.manifest import plain, versions
from trimformer.observing.resources import Machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "probes.jsonl"
DOCS = ROOT / "docs" / "methods.md"
ORIGINAL = "original"
PROBES = {
    "ptb-by-wikitext2": "ptb",
    "last-word": "last_word",
    "answers": "likelihood_choice",
    "sentiment": "likelihood_choice",
}
"""Task by folder of rows."""
COLUMNS = {
    ("ptb-by-wikitext2", "perplexity"): "PTB, perplexity",
    ("ptb-by-wikitext2", "kl"): "PTB, KL",
    ("last-word", "accuracy"): "last word",
    ("answers", "accuracy"): "answers",
    ("sentiment", "accuracy"): "sentiment",
}
METHODS: dict[str, dict[str, Any]] = {"surgeon": {"epochs": 0}, "flap": {}, "shortgpt": {}, "wanda_sp": {}}
"""Options by method."""
TOKENS, LENGTH, SEED = 50_000, 256, 0
BATCHES = (1, 8)


def main() -> None:
    """Compute what is missing of what the command line asks for, then show and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["surgeon", "flap"])
    parser.add_argument("--flops", nargs="+", type=float, default=[0.9, 0.8, 0.7, 0.6], help="shares kept")
    parser.add_argument("--generation", action="store_true", help="time generation, nothing else")
    parser.add_argument("--table", action="store_true", help="compute nothing, make the table of what there is")
    asked = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    for needed in (FOLDER / "smollm2", FOLDER / "rows" / "ptb-by-wikitext2", DATA):
        if not (needed.is_dir() or asked.table):
            sys.exit(f"{needed} is missing: see the first lines of this file for what makes it")
    if asked.generation:
        folders = {name: FOLDER / "probes" / name for method in asked.methods for name in _names(method, asked.flops)}
        _time({ORIGINAL: FOLDER / "smollm2"} | {name: path for name, path in folders.items() if path.exists()})
    elif not asked.table:
        _judge(ORIGINAL, FOLDER / "smollm2")
        for method in asked.methods:
            for name, model in zip(_names(method, asked.flops), _pruned(method, asked.flops), strict=True):
                _judge(name, model)
    table = format_table(_stored())
    write_text(between_markers(DOCS.read_text(encoding="utf-8"), "probes", table), DOCS)
    print(table)


def _names(method: str, shares: list[float]) -> list[str]:
    return [f"{method}-{share:g}" for share in shares]


def _pruned(method: str, shares: list[float]) -> list[Path]:
    """Give the folders of the models of one method, made from one measurement where they are missing."""
    folders = {share: FOLDER / "probes" / name for share, name in zip(shares, _names(method, shares), strict=True)}
    missing = [share for share in shares if not folders[share].exists()]
    if missing:
        task, rows = plugins.load("tasks", "ptb"), str(FOLDER / "rows" / "ptb-by-wikitext2")
        dense = trimformer.load_model(str(FOLDER / "smollm2"), task.auto_class).eval()
        tokenizer = trimformer.load_tokenizer(str(FOLDER / "smollm2"))
        project = Project(dense, tokenizer, task, task.rows(rows, "train"), task.rows(rows, "validation"), LENGTH)
        pruner = project.pruner(
            method=method, calibration_tokens=TOKENS, seed=SEED, options=METHODS[method], judged=False
        )
        for share in missing:
            result = pruner.prune(Budget(flops=share))
            folders[share].parent.mkdir(parents=True, exist_ok=True)
            with whole_folder(folders[share]) as new:
                result.model.save_pretrained(new)
                tokenizer.save_pretrained(new)
    return list(folders.values())


def _judge(name: str, folder: Path) -> None:
    """Judge a model by each probe that it has no result of."""
    known = {(row["model"], row["probe"]) for row in _stored()}
    missing = [probe for probe in PROBES if (name, probe) not in known]
    if not missing:
        return
    dense, model = (trimformer.load_model(str(path)).eval() for path in (FOLDER / "smollm2", folder))
    tokenizer = trimformer.load_tokenizer(str(FOLDER / "smollm2"))
    for probe in missing:
        length = LENGTH if probe == "ptb-by-wikitext2" else None
        rows = str(FOLDER / "rows" / probe)
        found = evaluate(model, tokenizer, PROBES[probe], rows, dense=dense, max_length=length)
        _store({"model": name, "probe": probe, "metrics": plain(found)})


def _time(folders: dict[str, Path]) -> None:
    """Time all models in turn, one text at once and eight."""
    models = {name: trimformer.load_model(str(path)).eval() for name, path in folders.items()}
    for batch in BATCHES:
        for name, found in rates(models, batch).items():
            _store({"model": name, "probe": f"generation-{batch}", "generation": found})


def _store(row: dict[str, Any]) -> None:
    used = {name: versions()[name] for name in ("trimformer", "torch", "transformers")}
    about = {"threads": torch.get_num_threads(), "machine": asdict(Machine.now(torch.device("cpu"))), "versions": used}
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row | about) + "\n")
    print(json.dumps(row), flush=True)


def _stored() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def format_table(rows: list[dict[str, Any]]) -> str:
    """Write a Markdown table of all results: a model a line, a probe a column; of two results the newer one."""
    metrics = {(row["model"], row["probe"], name): each["value"] for row in rows for name, each in _metrics(row)}
    speeds = {(row["model"], row["probe"]): row["generation"] for row in rows if "generation" in row}
    timed = [f"generation-{batch}" for batch in BATCHES if any(probe == f"generation-{batch}" for _, probe in speeds)]
    heads = [*COLUMNS.values(), *(f"tokens a second, {probe.partition('-')[2]} at once" for probe in timed)]
    lines = ["| | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 1)]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = [_number(metrics.get((model, *column))) for column in COLUMNS]
        cells += [_rate(speeds.get((model, probe))) for probe in timed]
        method, _, share = model.partition("-")
        lines.append(f"| {method}{f', {float(share):.0%}' if share else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _metrics(row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(row.get("metrics", {}).items())


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _rate(found: dict[str, Any] | None) -> str:
    return f"{found['tokens_a_second']:.1f} ({found['speedup']:.2f} ×)" if found else "–"


if __name__ == "__main__":
    main()
