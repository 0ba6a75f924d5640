"""A plan says what pruning does: its sizes are those of the result, nothing is cut, and its file prunes the same."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.table import Table
from test_report_page import Page
from transformers import PreTrainedTokenizerBase

from conftest import WORDS, TinyBert
from tiny_models import HEADS_PER_BLOCK, WIDTH, tiny_model
from trimformer import Budget, Pruner, Sizes, load_model
from trimformer.errors import CheckpointError, InvalidOption, UnreachableTarget
from trimformer.model.checkpoint import write
from trimformer.model.sites import Site
from trimformer.model.structure import read_structure
from trimformer.model.weights import file_bytes, stored_tensors
from trimformer.pruning.cache import MeasuredCache
from trimformer.pruning.foretelling import BAND, TOGETHER, unseen_ratio
from trimformer.pruning.sizes import read_sizes
from trimformer.report.terminal import plan_tables

TEXTS = [" ".join(WORDS.split()[start : start + 4 + start % 5]) for start in range(20)] * 3
ROWS = [{"input_ids": [1, *range(8, 12 + place % 5), 2]} for place in range(40)]


@pytest.fixture
def pruner(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> Pruner:
    return Pruner(tiny_bert(), TEXTS, tokenizer=tokenizer, calibration_tokens=300)


def of_rows(name: str, head: str, **given: Any) -> Pruner:
    return Pruner(tiny_model(name, head), ROWS, calibration_tokens=None, **given)


ASKED: dict[str, tuple[Budget, Sizes | None]] = {
    "FLOPs": (Budget(flops=0.5), None),
    "parameters in steps": (Budget(params=0.4, round_to=8), None),
    "a file": (Budget(size=0.8), None),
    "a number of bytes": (Budget(size="60kB"), None),
    "the same everywhere": (Budget(flops=0.8, uniform=True), None),
    "sizes beside it": (Budget(flops=0.6), Sizes(keep_layers="0")),
    "dropped sublayers": (Budget(flops=0.5), Sizes(drop_sublayers=1)),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_pruning_gives_the_sizes_of_the_plan_and_its_file_the_same_model(
    pruner: Pruner, asked: tuple[Budget, Sizes | None], tmp_path: Path
) -> None:
    budget, sizes = asked
    planned, result = pruner.plan([budget], sizes)[0], pruner.prune(budget, sizes)
    assert planned.units == result.facts.units
    assert planned.parameters == result.facts.parameters.pruned
    assert planned.budget == result.facts.budget
    file = planned.save(tmp_path / "plan.json")
    again = pruner.prune(sizes=Sizes(sites=read_sizes(file), uniform=budget.uniform))
    assert all(torch.equal(again.masks[name], mask) for name, mask in result.masks.items())
    weights = again.model.state_dict()
    assert all(torch.equal(weights[name], values) for name, values in result.model.state_dict().items())


def test_query_heads_are_planned_as_they_are_pruned(tmp_path: Path) -> None:
    pruner, sizes = of_rows("llama", "language model"), Sizes(query_heads="4-8")
    planned, result = pruner.plan([Budget(flops=0.7)], sizes)[0], pruner.prune(Budget(flops=0.7), sizes)
    assert planned.units == result.facts.units
    again = pruner.prune(sizes=Sizes(sites=read_sizes(planned.save(tmp_path / "plan.json"))))
    assert again.facts.units == planned.units


def test_sizes_that_were_edited_are_those_of_the_model(pruner: Pruner, tmp_path: Path) -> None:
    file = pruner.plan([Budget(flops=0.5)]).save(tmp_path / "plan.json")
    sizes = json.loads(file.read_text())
    sizes["1"] |= {"heads": 3, "neurons": 17}
    file.write_text(json.dumps(sizes))
    small = read_structure(pruner.prune(sizes=Sizes(sites=read_sizes(file))).model)
    assert [site.units for site in small][2:] == [3, 17]
    assert [shape_of(site) for site in small][:2] == [str(sizes["0"]["heads"]), str(sizes["0"]["neurons"])]


def shape_of(site: Site) -> str:
    """A size as a file of sizes has it: heads of a width where that is not the model's."""
    narrower = site.attends and site.unit_width != WIDTH // HEADS_PER_BLOCK
    return f"{site.units}x{site.unit_width}" if narrower else str(site.units)


def test_nothing_is_cut_and_more_is_lost_the_more_goes(pruner: Pruner) -> None:
    model = pruner.calibration.dense.model
    before = copy.deepcopy(model.state_dict())
    plan = pruner.plan()
    assert [size.asked for size in plan] == ["0.9", "0.8", "0.7", "0.6", "0.5", "0.4", "0.3", "0.2"]
    losses = [size.loss.expected for size in plan]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]
    assert all(size.loss.low == size.loss.expected / BAND for size in plan)
    assert [size.bytes for size in plan] == sorted((size.bytes for size in plan), reverse=True)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], values) for name, values in before.items())
    assert model.config.to_dict().get("quantization_config") is None


def test_a_second_plan_measures_nothing_and_knows_the_time_all_the_same(
    tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    bars: list[str] = []

    def shown(items: Sequence[Any], text: str) -> Sequence[Any]:
        bars.append(text)
        return items

    def planned() -> Any:
        return Pruner(
            tiny_bert(),
            TEXTS,
            tokenizer=tokenizer,
            calibration_tokens=300,
            progress=shown,
            cache=MeasuredCache(tmp_path),
        ).plan()

    first = planned()
    assert bars
    bars.clear()
    second = planned()
    turning = {f"1 of 2: {text}" for text in ("comparing queries and keys", "turning heads", "measuring curvature")}
    assert set(bars) <= turning, "of some of the rows"
    assert second.budgets == first.budgets
    assert second.pruning_seconds == pytest.approx(first.pruning_seconds)
    assert first.pruning_seconds > 0


@pytest.mark.parametrize("narrow", [True, False])
def test_what_measuring_took_is_told_for_every_budget_that_it_serves(
    tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, narrow: bool
) -> None:
    options = {"narrow": narrow, "epochs": 0}
    pruner = Pruner(tiny_bert(), TEXTS, tokenizer=tokenizer, calibration_tokens=300, options=options, progress=False)
    first, second = Budget(flops=0.8), Budget(flops=0.5)
    assert pruner.measuring_cpu_seconds(first) == 0
    facts = pruner.prune(first).facts
    told = pruner.measuring_cpu_seconds(first)
    assert told > 0
    assert ("ordering" in facts.seconds) is narrow, "heads were turned"
    pruner.prune(second)
    assert pruner.measuring_cpu_seconds(second) == told, "once for both"


@pytest.mark.parametrize("method", ["kprune", "magnitude"])
def test_a_method_without_curves_says_which_have_some(
    tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, method: str
) -> None:
    pruner = Pruner(tiny_bert(), TEXTS, tokenizer=tokenizer, calibration_tokens=300, method=method)
    with pytest.raises(InvalidOption, match=f"{method} has no removal curves.* plan with surgeon"):
        pruner.plan()
    assert "measured" not in vars(pruner)


def test_budgets_that_cannot_be_are_refused_before_anything_is_measured(pruner: Pruner) -> None:
    for budgets, sizes in (
        ([Budget(flops=0.5), Budget(size="1kB")], None),
        ([Budget(flops=0.1)], Sizes(keep_layers="0")),
    ):
        with pytest.raises(UnreachableTarget):
            pruner.plan(budgets, sizes)
    with pytest.raises(InvalidOption, match="at least one"):
        pruner.plan([])
    assert "measured" not in vars(pruner)


def test_uniform_sizes_leave_out_the_usual_budgets_that_they_do_not_reach(pruner: Pruner) -> None:
    planned = pruner.plan(sizes=Sizes(uniform=True))
    least, _ = pruner.reachable("flops", uniform=True)
    assert 0 < len(planned) < len(pruner.plan())
    assert planned[-1].budget.asked >= least
    with pytest.raises(UnreachableTarget, match="uniform sizes within this budget would leave no neuron"):
        pruner.check([Budget(flops=0.99 * least, uniform=True)])
    pruner.check([Budget(flops=least, uniform=True)])


def test_only_a_file_of_sizes_is_replaced(pruner: Pruner, tmp_path: Path) -> None:
    planned = pruner.plan([Budget(flops=0.5)])
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="no file of sizes: it is never replaced"):
        planned.save(config, overwrite=True)
    planned.save(tmp_path / "plan.json")
    planned.save(tmp_path / "plan.json", overwrite=True)


def test_sizes_leave_out_the_usual_budgets_that_they_do_not_allow(pruner: Pruner) -> None:
    plan = pruner.plan(sizes=Sizes(keep_layers="0"))
    assert [size.asked for size in plan] == ["0.9", "0.8", "0.7", "0.6"]


def test_without_gradients_a_loss_has_no_unit(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    options = {"gradients": False}
    plan = Pruner(tiny_bert(), TEXTS, tokenizer=tokenizer, calibration_tokens=300, options=options).plan()
    assert plan.distance is None
    assert all(size.loss.low is None for size in plan)
    assert "0.2 loses relatively 1>" in repr(plan)
    assert "It ranks sizes" in Page(plan._repr_html_()).text


def test_a_loss_is_what_the_curves_add_up_to_on_unseen_rows(pruner: Pruner) -> None:
    added = 0.0
    whole = Pruner(pruner.calibration.dense.model, pruner.calibration.batches, options={"narrow": False})
    planned, masks = whole.plan([Budget(flops=0.5)])[0], whole.prune(Budget(flops=0.5)).masks
    for site in whole.calibration.dense:
        removed = ~masks[site.name]
        own = whole.measured[site.name].removal_cost.sort().values[: int(removed.sum())].sum()
        added += float(own) * unseen_ratio(site.features, pruner.calibration.tokens)
    assert planned.loss.expected == pytest.approx(TOGETHER * added)


@pytest.mark.parametrize(
    ("head", "distance"),
    [
        ("sequence classification", "kl"),
        ("regression", "half_squared_distance"),
        ("token classification", None),
        ("question answering", None),
        ("encoder", None),
    ],
)
def test_losses_have_a_unit_where_a_row_has_one_prediction(head: str, distance: str | None) -> None:
    plan = of_rows("bert", head).plan([Budget(flops=0.5)])
    assert plan.distance == distance
    assert (plan[0].loss.low is None) is (distance is None)


def _headings(table: Table) -> list[str]:
    return [str(column.header) for column in table.columns]


def test_what_a_plan_shows_saves_and_reports(pruner: Pruner, tmp_path: Path) -> None:
    plan = pruner.plan([Budget(flops=0.7), Budget(size="60kB")])
    assert repr(plan).startswith("<Plan of 2 sizes: flops 0.7 loses ")
    assert len(repr(plan)) < 100
    assert repr(plan[1]).startswith("<PlannedSize: size 60kB, 0.1 MB")
    headings = [line for table in plan_tables(plan) if isinstance(table, Table) for line in _headings(table)]
    assert headings[-2:] == ["flops 0.7", "size 60kB"], "budgets of several costs are told apart"
    assert {"table", "svg"} <= set(Page(plan._repr_html_()).tags)
    page = Page(plan.report(tmp_path / "plan.html").read_text())
    assert "size 60kB" in page.text
    assert json.loads(json.dumps(plan.facts))["budgets"][1]["asked"] == "60kB"
    with pytest.raises(CheckpointError, match="exists"):
        plan.report(tmp_path / "plan.html")
    with pytest.raises(InvalidOption, match="one budget, and there are 2"):
        plan.save(tmp_path / "plan.json")
    assert plan[1].save(tmp_path / "plan.json").exists()
    with pytest.raises(CheckpointError, match="exists"):
        plan[0].save(tmp_path / "plan.json")
    with pytest.raises(CheckpointError, match="as JSON"):
        plan[0].save(tmp_path / "plan.yaml")


SIZED = [("bert", "sequence classification"), ("gpt2", "language model"), ("llama", "language model")]


@pytest.mark.parametrize(("name", "head"), SIZED)
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_the_file_on_disk_is_at_most_as_large_as_asked_and_within_a_unit_of_it(
    name: str, head: str, dtype: torch.dtype | None, tmp_path: Path
) -> None:
    pruner = of_rows(name, head)
    pruner.workload = pruner.workload if dtype is None else type(pruner.workload)(6, 2, "float16")
    prices = pruner.prices("size")
    unit = max(float(prices.tables[site.name].diff().min()) for site in pruner.calibration.dense)
    for share in (0.85, 0.6):
        asked = round(share * prices.total)
        result = pruner.prune(Budget(size=f"{asked}B"))
        file = write(result.model, tmp_path / f"{share}", dtype=dtype) / "model.safetensors"
        assert asked - unit - HEADER < file.stat().st_size <= asked
        load_model(str(file.parent))


HEADER = 200
"""Bytes that the header of a tiny file is shorter than the dense model's, whose numbers have more digits."""


@pytest.mark.parametrize(
    ("name", "head", "tied"),
    [*((*each, False) for each in SIZED), ("llama", "language model", True), ("bert", "masked language model", True)],
)
def test_the_size_of_a_file_is_computed_to_the_byte(name: str, head: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(name, head, tie_word_embeddings=tied)
    file = write(model, tmp_path / "dense") / "model.safetensors"
    assert file_bytes(stored_tensors(model)) == file.stat().st_size


def test_a_size_that_cannot_be_says_which_can(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    pruner = Pruner(tiny_bert(), TEXTS, tokenizer=tokenizer, calibration_tokens=300)
    with pytest.raises(UnreachableTarget, match=r"`size` of 1.0 kB .* from \d+\.\d kB, .* to the \d+\.\d kB of all$"):
        pruner.prune(Budget(size="1kB"))
    with pytest.raises(UnreachableTarget, match=r"`size` of 1.0 MB"):
        pruner.prune(Budget(size="1MB"))
    wordy = Pruner(tiny_bert(vocab_size=1000), TEXTS, tokenizer=tokenizer, calibration_tokens=300)
    with pytest.raises(UnreachableTarget, match=r"word embeddings, which .*trim_vocabulary"):
        wordy.plan([Budget(size="1kB")])


def test_the_ratio_of_unseen_to_seen_error_is_that_of_least_squares() -> None:
    """In closed form for Gaussian inputs: `(n + f) / (n - f)` up to terms in `1/n`."""
    generator = torch.Generator().manual_seed(0)
    features, tokens, unseen = 40, 200, 4000
    seen_error = unseen_error = 0.0
    for _ in range(20):
        inputs = torch.randn(tokens + unseen, features, generator=generator, dtype=torch.float64)
        target = torch.randn(tokens + unseen, generator=generator, dtype=torch.float64)
        weight = torch.linalg.lstsq(inputs[:tokens], target[:tokens, None]).solution[:, 0]
        errors = (inputs @ weight - target).square()
        seen_error, unseen_error = (
            seen_error + float(errors[:tokens].mean()),
            unseen_error + float(errors[tokens:].mean()),
        )
    assert unseen_error / seen_error == pytest.approx(unseen_ratio(features, tokens), rel=0.1)
