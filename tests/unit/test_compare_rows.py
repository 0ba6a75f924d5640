"""Rows are believed if they are whole and unchanged, and are the same run only if everything agrees."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.text import Text

from example_facts import latency, metric, plain_facts
from trimformer.compare import findings, markdown, plots
from trimformer.compare.plan import Plan, read_plan
from trimformer.compare.rows import Outcome, PackedMask, Row, Rows
from trimformer.errors import DataError
from trimformer.model.manifest import plain, read


def row(share: float = 0.4, seed: int = 0, **facts: Any) -> Row:
    cell = {"budget": {"cost": "flops", "share": share}, "seed": seed, "before_finetuning": False}
    values = {"dense": 0.9, "pruned": facts.pop("value", 0.8)}
    outcome = {
        **plain_facts(share),
        "metrics": {model: {"accuracy": metric(value, rows=10)} for model, value in values.items()},
        "units": {},
        "seconds": {"measuring": 1.0, "pruning": 2.0, "finetuning": None},
        "memory_mb": {"host": 900.0},
        "threads": 1,
        "forward_seconds": 0.5,
    }
    task, method = facts.pop("task", "sst2"), facts.pop("method", "kprune")
    return Row(task, method, cell, read(Outcome, outcome | {name: plain(value) for name, value in facts.items()}))


def perplexed(share: float, value: float, dense: float = 20.0, **facts: Any) -> Row:
    """A row of language modelling."""
    wide = {"sample_size": 10, "low": 1.0, "high": 1e9}
    metrics = {"dense": {"perplexity": wide | {"value": dense}}, "pruned": {"perplexity": wide | {"value": value}}}
    return row(share, task="ptb", metrics=metrics, **({"latency": timed(50)} | facts))


def timed(milliseconds: float) -> dict[str, Any]:
    return {"dense": latency(100.0), "pruned": latency(milliseconds)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = Rows(tmp_path / "folder" / "rows.jsonl")
    for share in (0.8, 0.6, 0.4):
        rows.append(row(share))
    return rows.file


def shares(file: Path, said: list[str] | None = None) -> list[float]:
    return [found.share for found in Rows(file, (said if said is not None else []).append).all]


def test_turning_or_ordering_heads_is_part_of_measuring() -> None:
    seconds = {"ordering": 4.0, "measuring": 1.0, "pruning": 2.0, "finetuning": None}
    turned = row(seconds=seconds)
    assert turned.facts.measuring_seconds == 5.0
    assert turned.seconds == 7.0
    assert "| 14.0 | 4.0 | 7.0 |" in markdown.costs([turned]), "in forward passes of half a second"


def test_rows_read_back(file: Path) -> None:
    rows = Rows(file)
    assert rows.all == [row(0.8), row(0.6), row(0.4)]
    assert rows.find(row(0.6).cell) == row(0.6)
    assert rows.find(row(0.6).cell | {"seed": 1}) is None
    assert rows.find(row(0.6).cell | {"more": 1}) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-40],
        lambda text: text.replace('"share": 0.4', '"share": 0.5'),
        lambda text: text[: text.rindex("{")] + "{}\n",
        lambda text: text[: text.rindex('{"task"')] + "[1]\n",
        lambda text: text[: text.rindex('{"task"')] + "\x00\x00\x00",
    ],
    ids=["cut", "changed", "nested", "list", "zeros"],
)
def test_damaged_rows_are_told_and_left_out(file: Path, damage: Any) -> None:
    file.write_text(damage(file.read_text()))
    said: list[str] = []
    assert shares(file, said) == [0.8, 0.6]
    assert len(said) == 1
    assert "line 3 is damaged" in said[0]
    Rows(file).append(row(0.2))
    said.clear()
    assert shares(file, said) == [0.8, 0.6, 0.2]
    assert said == []


def test_a_row_without_its_newline_is_kept(file: Path) -> None:
    file.write_text(file.read_text().rstrip("\n"))
    Rows(file).append(row(0.2))
    assert shares(file) == [0.8, 0.6, 0.4, 0.2]


def test_bytes_that_are_no_text(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-30] + b"\xff" + content[-29:])
    assert shares(file) == [0.8, 0.6]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    Rows(tmp_path / "rows.jsonl").append(row(value=math.nan))
    json.loads((tmp_path / "rows.jsonl").read_text(), parse_constant=pytest.fail)
    assert math.isnan(Rows(tmp_path / "rows.jsonl").all[0].value)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        Rows(tmp_path / "file" / "rows.jsonl").append(row())


def test_a_failed_row_has_no_metric() -> None:
    failed = Row("sst2", "kcm", row().cell, None, "the budget cannot be reached")
    assert findings.succeeded([failed, row()]) == [row()]
    with pytest.raises(DataError, match="cannot be reached"):
        _ = failed.value


def test_the_mean_over_seeds() -> None:
    assert str(findings.over_seeds([0.8])) == "0.8000"
    assert str(findings.over_seeds([0.7, 0.9])) == "0.8000 ± 0.1414 (2)"
    assert findings.over_seeds([]) is None


def test_the_best_speedup_within_three_points() -> None:
    rows = [row(0.6, value=0.89, latency=timed(60)), row(0.4, value=0.88, latency=timed(40))]
    assert findings.best_speedup(rows, "sst2", "kprune") == pytest.approx(2.5)
    rows[1] = row(0.4, value=0.86, latency=timed(40))
    assert findings.best_speedup(rows, "sst2", "kprune") == pytest.approx(100 / 60)
    assert findings.best_speedup(rows[1:], "sst2", "kprune") is None
    assert findings.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert findings.geometric_mean([2.0, None]) is None


def test_how_fast_models_are_by_size() -> None:
    plan = Plan(title="", subjects=(), contenders=(), budgets=(), device="cpu", published=())
    rows = [row(0.6, latency=timed(50)), row(0.6, task="mrpc", latency=timed(12.5)), row(0.4, latency=timed(40))]
    text = markdown.speeds(plan, [*rows, row(0.6, method="kcm", latency=timed(200))])
    assert "| times as fast as the original | 60% of flops | 40% of flops |" in text
    assert "| kprune | 4.00 × | 2.50 × |" in text
    assert "| kcm | 0.50 × | – |" in text


def test_sizes_that_were_reached_are_told_in_few_words() -> None:
    plan = Plan(title="", subjects=(), contenders=(), budgets=(), device="cpu", published=())

    def reaching(share: float, reached: float) -> Row:
        return row(share, budget={"cost": "flops", "asked": share, "reached": reached, "round_to": 1, "uniform": False})

    exact = [reaching(0.4, 0.39999), reaching(0.8, 0.8)]
    assert "Models have the sizes that were asked for." in markdown.notes(plan, exact)
    assert "models reached 95.0% to 100.0% of them." in markdown.notes(plan, [*exact, reaching(0.4, 0.38)])


def of_cost(cost: str, share: float = 0.4, **facts: Any) -> Row:
    made = row(share, **facts)
    return Row(made.task, made.method, {**made.cell, "budget": {"cost": cost, "share": share}}, made.outcome)


def test_budgets_of_several_costs_are_kept_apart() -> None:
    plan = Plan(title="", subjects=(), contenders=(), budgets=(), device="cpu", published=())
    fast, slow = of_cost("flops", value=0.89, latency=timed(40)), of_cost("params", value=0.5, latency=timed(80))
    rows = [fast, slow]
    assert findings.best_speedup(rows, "sst2", "kprune") == pytest.approx(2.5)
    assert "| kprune | 0.8900 | 0.5000 |" in markdown.accuracy(plan, rows)
    failed = Row("sst2", "kcm", slow.cell, None, "why")
    assert markdown.failures([fast, failed]) == "No result for kcm on sst2 at 40% of params: why."
    heads, neurons = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1] * 9 + [0]).bool()
    units = packed(heads, neurons)
    both = [of_cost(cost, task=task, units=units) for cost in ("flops", "params") for task in ("sst2", "mrpc")]
    assert [pair.budget for pair in findings.pairs_in_common(both)] == [("flops", 0.4), ("params", 0.4)]
    assert "| kprune | 40% of params | sst2, mrpc |" in markdown.units_in_common(both)
    figure = plots.accuracy(plan, rows)
    assert figure is not None
    labels = [line.get_label() for line in figure.axes[0].containers]
    assert labels == ["kprune, flops", "kprune, params"]


def packed(heads: torch.Tensor, neurons: torch.Tensor) -> dict[str, PackedMask]:
    return {"layer.0.attention": PackedMask.of(heads), "layer.0.ffn": PackedMask.of(neurons)}


def test_a_divergence_stands_beside_the_metric() -> None:
    values = {"dense": (20.0, 0.0), "pruned": (25.0, 0.125)}
    metrics = {
        model: {name: metric(value, rows=10) for name, value in zip(("perplexity", "kl"), both, strict=True)}
        for model, both in values.items()
    }
    with_it, without = row(task="ptb", metrics=metrics), row(task="own")
    assert with_it.divergence
    assert with_it.divergence.value == 0.125
    assert without.divergence is None
    plan = Plan(title="", subjects=(), contenders=(), budgets=(), device="cpu", published=())
    said = markdown.accuracy(plan, [with_it, without])
    assert "| ptb (perplexity, then kl, n=10) | 40% of flops |" in said
    assert "| kprune | 25.00, 0.1250 |" in said
    assert "| own (accuracy, n=10) |" in said
    assert "| kprune | 0.8000 |" in said


def test_units_in_common() -> None:
    heads, neurons = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1] * 9 + [0]).bool()
    one = packed(heads, neurons)
    other = packed(heads.flip(0), neurons.flip(0))
    assert findings.unpacked(one["layer.0.ffn"]).tolist() == neurons.tolist()
    assert findings.in_common(one, one) == {"heads": 1.0, "neurons": 1.0}
    assert findings.in_common(one, other) == {"heads": 0.0, "neurons": pytest.approx(8 / 9)}
    (pair,) = findings.pairs_in_common([row(units=one), row(task="mrpc", units=other), row(0.2, units=one)])
    assert (pair.first, pair.second, pair.heads) == ("sst2", "mrpc", 0.0)


def test_units_in_common_of_models_that_keep_none_of_a_kind() -> None:
    none = packed(torch.zeros(4).bool(), torch.tensor([1] * 9 + [0]).bool())
    both = [row(units=none), row(task="mrpc", units=none)]
    assert math.isnan(findings.in_common(none, none)["heads"])
    assert markdown.units_in_common(both).endswith("| sst2, mrpc | – | 100.0% |")
    assert "nan" not in "".join(text.get_text() for text in plots.common(both).findobj(Text))


def test_the_best_speedup_within_a_share_of_perplexity() -> None:
    rows = [perplexed(0.9, 19.5, latency=timed(90)), perplexed(0.8, 20.5, latency=timed(80))]
    rows.append(perplexed(0.6, 20.8, latency=timed(60)))
    assert rows[0].degradation == pytest.approx(-0.025)
    assert findings.best_speedup(rows, "ptb", "kprune") == pytest.approx(1.25)
    assert findings.small_loss(rows) == "3 % of perplexity"
    assert findings.small_loss([*rows, row()]) == "3 % of perplexity or 3 points"
    assert findings.small_loss([row()]) == findings.small_loss([]) == "3 points"


def test_a_perplexity_may_explode(tmp_path: Path) -> None:
    rows = [perplexed(0.9, 21.25, seed=0), perplexed(0.9, 21.75, seed=1), perplexed(0.5, 3.4e17), perplexed(0.2, 1e308)]
    (tmp_path / "plan.yaml").write_text("tasks: {ptb: {model: some/model}}\nmethods: {kprune: }\nbudgets: [0.5]\n")
    plan = read_plan(tmp_path / "plan.yaml")
    text = f"{markdown.accuracy(plan, rows)}\n{markdown.notes(plan, rows)}"
    for part in ("| 21.50 ± 0.35 (2) |", "| 3.4e+17 |", "| 1.0e+308 |", "Dense: ptb 20.00", "Lower is better: perplex"):
        assert part in text
    figure = plots.accuracy(plan, rows[:3])
    assert figure is not None
    (panel,) = figure.axes
    assert (panel.get_yscale(), panel.get_ylabel()) == ("log", "perplexity, lower is better")
    figure.draw_without_rendering()
    assert "1e+06" in [label.get_text() for label in panel.get_yticklabels()]


def test_notes_name_the_machine_and_its_load_where_rows_tell_it(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("tasks: {sst2: {model: some/model}}\nmethods: {kprune: }\nbudgets: [0.5]\n")
    plan = read_plan(tmp_path / "plan.yaml")
    cores = {"hardware": "2 x x86_64 AVX512"}
    rows = [row(0.8, latency=timed(80), machine=cores | {"load": load}) for load in (2.04, 0.96)]
    text = markdown.notes(plan, rows)
    assert "On cpu with 1 thread (2 x x86_64 AVX512);" in text
    assert "Load of the machine, in processes that ran or waited: 1.0 to 2.0." in text
    assert "Load of the machine, in processes that ran or waited: 2.0." in markdown.notes(plan, rows[:1])
    mixed = markdown.notes(plan, [*rows, row(0.8, latency=timed(80), threads=2)])
    assert "On cpu with 1 thread; cpu with 2 threads (2 x x86_64 AVX512, where rows tell it);" in mixed
    before = markdown.notes(plan, [row(0.8, latency=timed(80))])
    assert "On cpu with 1 thread;" in before
    assert "Load" not in before


def test_failures_of_a_method_are_told_once() -> None:
    failed = [
        Row(task, "kcm", {"budget": {"cost": "flops", "share": share}, "seed": seed}, None, f"too few at {share}")
        for task, kept in (("stsb", (0.2, 0.1)), ("sst2", (0.2, 0.1)), ("mrpc", (0.1,)))
        for share in kept
        for seed in (0, 1)
    ]
    assert markdown.failures([*failed, row()]) == (
        "No result for kcm on stsb, sst2 at 20%, 10%; mrpc at 10%: (stsb at 20%) too few at 0.2."
    )
    assert markdown.failures(failed[-1:]) == "No result for kcm on mrpc at 10%: too few at 0.1."
    assert not markdown.failures([row()])
