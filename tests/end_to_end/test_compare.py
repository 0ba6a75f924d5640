"""`compare` runs every cell once, goes on where it stopped, believes no damaged row, and prints published numbers."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from time import process_time
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from commands import Run, assert_mistake, rows, write
from conftest import TinyBert
from trimformer.compare import bench
from trimformer.compare.plan import read_plan
from trimformer.compare.plots import accuracy
from trimformer.compare.run import stored
from trimformer.errors import NumericalError
from trimformer.methods.surgeon import Surgeon
from trimformer.model import checkpoint
from trimformer.observing.resources import device_name
from trimformer.pruning import turning
from trimformer.pruning.pruner import Pruner

PLAN = """\
title: Tiny models
tasks:
  one: {task: sst2, model: dense, data: one}
  two: {task: sst2, model: dense, data: two}
methods:
  magnitude:
  random: {options: {tune: false}, vary: {ridge: [1]}}
budgets: [0.7, 0.4]
calibration_tokens: 100
published: paper.yaml
"""
PAPER = """\
name: the paper
source: Somebody, table 1
notes: [It was measured on another planet.]
metrics:
  one: {random: {0.4: 0.8765}}
speedups:
  random: {one: 2.5, two: 10.0}
"""
CELLS = 2 * 3 * 2
BUSY = 1.0
"""Seconds of work beside which pruning a tiny model takes little."""


@pytest.fixture
def plan(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    checkpoint.write(tiny_bert(num_labels=2), tmp_path / "dense", tokenizer=tokenizer)
    for seed, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train.jsonl", rows(40, seed=2 * seed))
        write(tmp_path / name / "validation.jsonl", rows(10, seed=2 * seed + 1))
    (tmp_path / "paper.yaml").write_text(PAPER)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path / "plan.yaml"


@pytest.fixture
def out(plan: Path) -> Path:
    return plan.with_name("out")


Compare = Callable[..., Any]


@pytest.fixture
def compare(run: Run, plan: Path, out: Path) -> Compare:
    return lambda *more: run("compare", plan, "--out", out, *more)


@pytest.fixture
def done(compare: Compare, out: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The plan was run to its end, once for all tests that say so."""
    whole = tmp_path_factory.getbasetemp() / "compared"
    if not whole.exists():
        assert compare().code == 0
        copytree(out, whole)
    copytree(whole, out, dirs_exist_ok=True)


@pytest.fixture
def pruned(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The shares of all budgets that were pruned to, as it happens."""
    seen: list[float] = []
    original = Pruner.prune

    def prune(self: Pruner, budget: Any) -> Any:
        seen.append(budget.keep_fraction)
        return original(self, budget)

    monkeypatch.setattr(Pruner, "prune", prune)
    return seen


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def test_what_measuring_and_turning_took_is_part_of_what_every_budget_cost(
    compare: Compare, plan: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan.write_text(re.sub(r"methods:(\n  .*)+", "methods:\n  surgeon: {options: {epochs: 0}}", PLAN))
    monkeypatch.setattr(Surgeon, "measure", _slowed(Surgeon.measure))
    monkeypatch.setattr(turning, "turn", _slowed(turning.turn))
    assert compare().code == 0
    seconds = [line["outcome"]["cost"]["cpu_seconds"] for line in lines(out)]
    assert len(seconds) == 4, "two tasks, two budgets"
    assert min(seconds) > 2 * BUSY


@pytest.mark.usefixtures("done")
def test_the_legend_of_a_single_panel_fits_below_it(plan: Path, out: Path) -> None:
    compared = read_plan(plan)
    names = ["surgeon", "mask_tuning", "magnitude", "dual_cp", "shortgpt", "wanda_sp", "dynabert"]
    row = next(row for row in stored(compared, out, print) if row.method == "magnitude")
    figure = accuracy(compared, [replace(row, method=name) for name in names])
    assert figure is not None
    figure.canvas.draw()
    (legend,) = figure.legends
    assert len(legend.get_texts()) > len(names)
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 <= box.x1 <= whole.x1


def _slowed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, after so many seconds of work."""

    def slow(*given: Any) -> Any:
        start = process_time()
        while process_time() < start + BUSY:
            pass
        return function(*given)

    return slow


def test_every_cell_is_run_once_and_shown(compare: Compare, out: Path, pruned: list[float]) -> None:
    result = compare()
    assert result.code == 0, result.err
    assert len(pruned) == len(lines(out)) == CELLS
    assert len({line["cell"]["data"] for line in lines(out)}) == 2
    facts = lines(out)[-1]["outcome"]
    assert facts["budget"]["reached"] <= facts["budget"]["asked"] == 0.4
    assert facts["metrics"]["pruned"]["accuracy"]["sample_size"] == 10
    assert facts["latency"]["dense"]["runs"] == facts["latency"]["pruned"]["runs"] > 1
    assert {"measuring", "pruning"} <= facts["seconds"].keys()
    assert facts["memory_mb"]["host"] > 0
    assert facts["machine"]["hardware"] == device_name(torch.device("cpu"))
    assert facts["machine"]["load"] >= 0
    assert {site["units"] for site in facts["units"].values()} == {4, 48}
    text = (out / "tables.md").read_text()
    for part in (
        "# Tiny models",
        "random, the paper",
        "0.8765",
        "Somebody, table 1",
        "another planet",
        "geometric mean",
        "5.00 ×",
        "heads in common",
        "| random | ridge | 1 |",
        "Dense: one",
    ):
        assert part in text
    assert "ridge=1" not in text.partition("Dense:")[0]
    for name in ("accuracy", "time", "common", "sensitivity"):
        assert "<svg" in (out / f"{name}.svg").read_text()

    again = compare("--json")
    assert again.code == 0, again.err
    assert f"{CELLS} of {CELLS} cells are there" in again.err
    assert len(pruned) == CELLS
    facts = {name: value for name, value in lines(out)[0].items() if name != "checksum"}
    assert facts in json.loads(again.out)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_goes_on(compare: Compare, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Pruner.prune, []

    def prune(self: Pruner, budget: Any) -> Any:
        calls.append(budget)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return original(self, budget)

    monkeypatch.setattr(Pruner, "prune", prune)
    result = compare()
    assert (result.code, len(lines(out))) == (130, 2)
    before = (out / "rows.jsonl").read_text()
    assert compare().code == 0
    assert len(calls) == 3 + CELLS - 2
    assert (out / "rows.jsonl").read_text().startswith(before)


@pytest.mark.usefixtures("done")
def test_a_damaged_row_is_run_again(compare: Compare, out: Path, pruned: list[float]) -> None:
    text = (out / "rows.jsonl").read_text().splitlines()
    text[3] = text[3].replace('"value": 0.', '"value": 0.9', 1)
    (out / "rows.jsonl").write_text("\n".join(text))
    result = compare()
    assert result.code == 0, result.err
    assert "line 4 is damaged" in result.err
    assert len(pruned) == 1
    assert len(lines(out)) == CELLS


def identities(plan: Path) -> set[str]:
    """Of all cells, what decides their results."""
    found = read_plan(plan)
    benches = {subject.label: bench.Bench(subject, "cpu", plan.parent) for subject in found.subjects}
    return {json.dumps(benches[cell.subject.label].identity(cell)) for cell in found.cells()}


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [
        ("calibration_tokens: 100", "calibration_tokens: 90", CELLS),
        ("budgets: [0.7, 0.4]", "budgets: [0.7, 0.4, 0.3]", CELLS // 2),
        ("tune: false", "tune: true", 8),
        ("  magnitude:", "  largest: {method: magnitude}", 0),
        ("title: Tiny models", "title: Small models", 0),
        ("task: sst2, model: dense, data: one", "task: sst2, model: dense, data: one, max_length: 20", CELLS // 2),
        ("model: dense, data: one", "model: dense, data: one, columns: {sentence: sentence}", CELLS // 2),
        ("model: dense, data: one", "model: dense, data: one, evaluation_rows: 4", CELLS // 2),
    ],
)
def test_what_decides_a_result_is_another_cell(plan: Path, old: str, new: str, count: int) -> None:
    before = identities(plan)
    assert len(before) == CELLS
    plan.write_text(PLAN.replace(old, new))
    assert len(identities(plan) - before) == count


def test_columns_have_the_names_that_the_file_gives_them(plan: Path, out: Path) -> None:
    for each in ("train", "validation"):
        other = plan.with_name("two") / f"{each}.jsonl"
        other.write_text(other.read_text().replace('"sentence"', '"Review"'))
    plan.write_text(PLAN.replace("data: two", "data: two, columns: {sentence: Review}"))
    subject = read_plan(plan).subjects[1]
    train, _ = bench.Bench(subject, "cpu", out)._rows
    assert train.column_names == ["sentence", "label"]


@pytest.mark.parametrize(("said", "count"), [("", 10), (", evaluation_rows: 4", 4), (", evaluation_rows: 40", 10)])
def test_a_model_is_judged_by_as_many_rows_as_the_file_says(plan: Path, out: Path, said: str, count: int) -> None:
    whole = [json.loads(line) for line in (plan.with_name("one") / "validation.jsonl").read_text().splitlines()]
    plan.write_text(PLAN.replace("data: one", f"data: one{said}"))
    found = [bench.Bench(read_plan(plan).subjects[0], "cpu", out)._rows[1] for _ in range(2)]
    judged = found[0].to_list()
    assert judged == found[1].to_list() == [row for row in whole if row in judged]
    assert len(judged) == count


def test_other_rows_or_weights_are_another_cell(plan: Path) -> None:
    before = identities(plan)
    write(plan.with_name("two") / "validation.jsonl", rows(10, seed=9))
    assert len(identities(plan) - before) == CELLS // 2
    config = plan.with_name("dense") / "config.json"
    config.write_text(config.read_text() + "\n")
    assert not identities(plan) & before


def test_nothing_is_shown_before_a_run(compare: Compare) -> None:
    assert_mistake(compare("--show"), "has no results", "without --show")


@pytest.mark.usefixtures("done")
def test_show_needs_neither_models_nor_data(compare: Compare, plan: Path, out: Path, pruned: list[float]) -> None:
    for file in [*plan.with_name("dense").iterdir(), *plan.with_name("one").iterdir()]:
        file.unlink()
    plan.with_name("one").rmdir()
    text = (out / "tables.md").read_text()
    (out / "tables.md").unlink()
    assert compare("--show").code == 0
    assert (out / "tables.md").read_text() == text
    assert pruned == []
    assert_mistake(compare(), "line 3", "there is no", "check the path")


def test_a_cell_that_cannot_be_done_is_told_and_the_others_go_on(
    compare: Compare, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Pruner.prune

    def prune(self: Pruner, budget: Any) -> Any:
        if (self.name, budget.keep_fraction) == ("magnitude", 0.4):
            raise NumericalError("a singular system; give more tokens")
        return original(self, budget)

    monkeypatch.setattr(Pruner, "prune", prune)
    assert compare().code == 0
    assert sum(line["failure"] is not None for line in lines(out)) == 2
    text = (out / "tables.md").read_text()
    assert "No result for magnitude on one, two at 40%: a singular system; give more tokens." in text
    assert "| one (accuracy, n=10) | 70% of flops | 40% of flops |" in text
    assert re.search(r"\| magnitude \| 0\.\d{4} \| – \|", text)
    monkeypatch.setattr(Pruner, "prune", original)
    before = len(lines(out))
    again = compare()
    assert "2 to run, 2 of them again since they failed" in again.err
    assert len(lines(out)) == before + 2
    text = (out / "tables.md").read_text()
    assert "No result" not in text
    assert re.search(r"\| magnitude \| 0\.\d{4} \| 0\.\d{4} \|", text)


@pytest.mark.slow
def test_pruning_before_fine_tuning(compare: Compare, plan: Path, out: Path) -> None:
    """The dense model is fine-tuned once and kept; a method may prune the pre-trained one first."""
    plan.write_text(
        """\
tasks:
  one: {task: sst2, pretrained: dense, data: one}
methods:
  before: {method: magnitude, prune: pretrained}
  after: {method: magnitude}
budgets: [0.5]
calibration_tokens: 100
finetune: {num_train_epochs: 1, patience: 0, learning_rate: 1.0e-3}
"""
    )
    result = compare()
    assert result.code == 0, result.err
    before, after = (line["outcome"] for line in lines(out))
    assert after["seconds"]["finetuning"] > 0
    assert before["seconds"]["finetuning"] != after["seconds"]["finetuning"]
    assert before["metrics"]["dense"] == after["metrics"]["dense"]
    assert (out / "dense-one" / "model.safetensors").exists()
    written = (out / "dense-one" / "model.safetensors").stat().st_mtime_ns
    plan.write_text(plan.read_text().replace("budgets: [0.5]", "budgets: [0.5, 0.4]"))
    assert compare().code == 0
    assert (out / "dense-one" / "model.safetensors").stat().st_mtime_ns == written
    plan.write_text(plan.read_text().replace("epochs: 1", "epochs: 2"))
    assert compare().code == 0
    assert (out / "dense-one" / "model.safetensors").stat().st_mtime_ns != written


def test_a_wrong_key_is_one_line(compare: Compare, plan: Path, out: Path) -> None:
    plan.write_text(PLAN.replace("budgets", "budgts"))
    assert_mistake(compare(), "plan.yaml, line 8", "unknown key 'budgts'", "Did you mean 'budgets'")
    assert not out.exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("data: two", "data: two, columns: {sentence: Review}", "has no column 'Review'; it has 'sentence', 'label'"),
        ("data: two", "data: two, max_length: 4", "`max_length=4` is outside 8 to"),
        (
            "task: sst2, model: dense, data: two",
            "task: classification, model: dense, data: named",
            "none of the model's",
        ),
        ("data: two", "data: two, sequence_length: 4000", "sequence_length=4000"),
        ("calibration_tokens: 100", "calibration_tokens: 100000", "ask for at most `calibration_tokens="),
    ],
)
def test_what_does_not_fit_a_tasks_rows_or_model_is_told_with_its_line(
    compare: Compare, plan: Path, out: Path, old: str, new: str, said: str
) -> None:
    plan.with_name("named").mkdir()
    for seed, split in enumerate(("train", "validation")):
        write(plan.with_name("named") / f"{split}.jsonl", [{**row, "label": "good"} for row in rows(40, seed=seed)])
    plan.write_text(PLAN.replace(old, new).replace("  one: {task: sst2, model: dense, data: one}\n", ""))
    result = compare()
    assert result.code == 2
    assert "plan.yaml, line 3: two: " in result.err
    assert said in result.err
    assert not (out / "rows.jsonl").exists() or not lines(out)


def test_a_missing_file_is_one_line(run: Run, out: Path) -> None:
    assert_mistake(run("compare", "none.yaml", "--out", out), "cannot read none.yaml", "check the path")


TRAINED = """\
tasks:
  one: {task: sst2, pretrained: pretrained, data: one, finetune: {max_steps: 1, rows: 8, patience: 0}}
methods:
  early: {method: magnitude, prune: pretrained}
  p_pruning: {train: {max_steps: 1, rows: 8}, options: {method: magnitude, calibration_tokens: 100}}
  dynabert: {train: {max_steps: 1, rows: 8}, options: {widths: "1", depths: "1"}}
budgets: [0.6]
calibration_tokens: 100
"""


def test_methods_that_train_start_from_a_pretrained_model(
    compare: Compare, plan: Path, out: Path, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
) -> None:
    checkpoint.write(tiny_bert("MaskedLM"), plan.with_name("pretrained"), tokenizer=tokenizer)
    plan.write_text(TRAINED)
    done = compare()
    assert done.code == 0, done.err
    found = {line["method"]: line for line in lines(out)}
    reached = [found[method]["outcome"]["budget"]["reached"] for method in ("early", "p_pruning")]
    assert all(0.4 < share <= 0.6 for share in reached)
    assert found["dynabert"]["outcome"] is None
    assert "the smallest sub-network keeps" in str(found["dynabert"])
    said = (out / "tables.md").read_text()
    assert re.search(r"\| one +\| 60% of flops +\| p_pruning +\|", said), said
    assert not [*out.glob("training-*")]
