"""A first look at a part of the calibration tokens: when it is enough, what it is judged by, what follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conftest import WORDS, TinyBert
from tiny_models import inputs, tiny_model
from trimformer import Budget, Project, Pruner, plugins
from trimformer.data.batches import padded_tokens
from trimformer.data.rows import Batch, Features
from trimformer.judging.guard import smallest_within
from trimformer.methods.surgeon import Surgeon
from trimformer.model.structure import read_structure
from trimformer.observing.calibration import Calibration
from trimformer.observing.predictions import ERROR, mean_divergence
from trimformer.progress import Stages
from trimformer.pruning import first_look as looks
from trimformer.pruning.contract import Method
from trimformer.pruning.first_look import FirstLook, first_look
from trimformer.pruning.journal import Journal
from trimformer.pruning.method_options import make_method
from trimformer.pruning.result import PruningResult

MILD, SEVERE = Budget(flops=0.8), Budget(flops=0.3)
ANY, NONE = {"negligible": 1e9, "epochs": 1}, {"negligible": 1e-9, "epochs": 1}
"""Options with which every look is enough, and with which none is."""
TOKENS = 120


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes so few tokens that tiny models are quick, of rows that are as few at once."""
    monkeypatch.setattr(looks, "TOKENS", TOKENS)
    monkeypatch.setattr(looks, "TOKENS_A_PART", 24)


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny_model("bert")


@pytest.fixture
def rows(model: PreTrainedModel) -> list[Features]:
    return [{"input_ids": row} for seed in range(10) for row in in_rows([inputs(model, (12, 7, 9, 12), seed=seed)])]


def look_at(model: PreTrainedModel, rows: list[Features], **options: object) -> FirstLook | None:
    calibration = Pruner(model, rows).calibration  # in the order in which rows are drawn
    return first_look(calibration, make_method("surgeon", options))


def in_rows(batches: list[Batch]) -> list[list[int]]:
    return [
        row[mask.bool()].tolist()
        for batch in batches
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def same_weights(one: PruningResult, other: PruningResult) -> bool:
    first, second = one.model.state_dict(), other.model.state_dict()
    return first.keys() == second.keys() and all(torch.equal(values, second[name]) for name, values in first.items())


def test_a_look_is_a_part_of_the_rows_of_all_lengths_and_is_judged_by_others(
    model: PreTrainedModel, rows: list[Features]
) -> None:
    look = look_at(model, rows)
    assert look is not None
    assert TOKENS / 2 < look.calibration.tokens < 2 * TOKENS
    assert all(padded_tokens(batch) <= 24 for batch in look.calibration.batches)
    every = [row["input_ids"] for row in rows]
    taken, unseen = map(in_rows, (look.calibration.batches, look.unseen))
    assert all(row in every for row in taken + unseen)
    assert not [row for row in unseen if row in taken]
    assert {len(row) for row in taken} == {len(row) for row in every}
    assert look.method == Surgeon(epochs=0)


def test_batches_that_take_turns_in_size_are_drawn_alike(model: PreTrainedModel) -> None:
    """Every batch here is divided into a full part and a rest: with a step of two, all parts would be of one kind."""
    rows = [inputs(model, (11, 11, 11), seed=seed) for seed in range(20)]
    calibration = Calibration(read_structure(model), rows, 0, lambda items, _: items)
    look = first_look(calibration, make_method("surgeon", {}))
    assert look is not None
    assert {len(batch["input_ids"]) for batch in look.calibration.batches} == {1, 2}


def test_where_it_is_enough_the_result_is_that_of_its_rows_alone(model: PreTrainedModel, rows: list[Features]) -> None:
    look = look_at(model, rows)
    assert look is not None
    found = Pruner(model, rows, options=ANY).prune(SEVERE)
    alone = Pruner(model, look.calibration.batches, options=ANY | {"epochs": 0}, calibration_tokens=None).prune(SEVERE)
    assert same_weights(found, alone)
    assert found.facts.calibration.tokens == look.calibration.tokens
    assert found.facts.options["epochs"] == 1  # as it was asked for: there was nothing to train
    assert set(found.facts.seconds) == set(alone.facts.seconds)


def test_where_it_is_not_the_result_is_that_of_all_rows(model: PreTrainedModel, rows: list[Features]) -> None:
    found = Pruner(model, rows, options=NONE).prune(SEVERE)
    drawn = Pruner(model, rows).calibration.batches
    plain = Pruner(model, drawn, options=NONE).prune(SEVERE)
    assert same_weights(found, plain)
    assert found.facts.calibration == plain.facts.calibration
    assert set(found.facts.seconds) == {"looking", *plain.facts.seconds}
    assert found.facts.seconds["looking"] > 0


def test_the_divergence_that_decides_is_the_mean_by_definition_on_unseen_rows(
    model: PreTrainedModel, rows: list[Features]
) -> None:
    look = look_at(model, rows)
    assert look is not None
    tried = Pruner(model, look.calibration.batches, options={"epochs": 0}, calibration_tokens=None).prune(SEVERE)
    with torch.no_grad():
        dense, small = (
            torch.cat([torch.log_softmax(each(**batch).logits, -1) for batch in look.unseen])
            for each in (model, tried.model)
        )
    apart = float((dense.exp() * (dense - small)).sum(-1).mean())
    enough, too_few = (
        Pruner(model, rows, options={"epochs": 0, "negligible": apart * by}).prune(SEVERE) for by in (1.001, 0.999)
    )
    assert same_weights(enough, tried)
    assert "looking" not in enough.facts.seconds
    assert too_few.facts.calibration.sequences == 40


@pytest.mark.parametrize(("options", "sequences", "stages"), [(ANY, 0, 4), (NONE, 40, 6)])
def test_every_size_has_its_own_look_and_rows_are_measured_once(
    options: dict[str, object],
    sequences: int,
    stages: int,
    model: PreTrainedModel,
    rows: list[Features],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So a size is the same in whatever order it is asked for."""
    measured: list[int] = []
    plain = Surgeon.measure

    def counted(self: Surgeon, calibration: Calibration) -> object:
        measured.append(calibration.sequences)
        return plain(self, calibration)

    monkeypatch.setattr(Surgeon, "measure", counted)
    both = []
    for order in ((MILD, SEVERE), (SEVERE, MILD)):
        shown = Stages(lambda items, _: items, 4)
        pruner = Pruner(model, rows, options=options, progress=shown)
        found = {}
        for budget in order:
            found[budget] = pruner.prune(budget)
            shown.enter("judging")
        assert (shown.number, shown.count) == (stages + 1, stages)  # the last judging is not the pruner's
        both.append(found)
    assert all(same_weights(both[0][budget], both[1][budget]) for budget in (MILD, SEVERE))
    assert all(("looking" in each.facts.seconds) == bool(sequences) for each in both[0].values())
    if sequences:
        assert [number for number in measured if number != sequences] == [measured[0]] * 2
        assert measured.count(sequences) == 2
    else:
        assert measured == [both[0][MILD].facts.calibration.sequences] * 2


def test_what_was_planned_is_what_is_pruned(model: PreTrainedModel, rows: list[Features]) -> None:
    pruner = Pruner(model, rows, options=ANY)
    plan = pruner.plan([SEVERE])
    found = pruner.prune(SEVERE)
    assert found.facts.calibration.sequences == 40
    assert same_weights(found, pruner.prune(sizes=plan[0].sizes))


@pytest.mark.parametrize(
    ("tokens", "options", "method"),
    [(None, ANY, "surgeon"), (390, ANY, "surgeon"), ("auto", {"negligible": 0.0}, "surgeon"), ("auto", {}, "kprune")],
)
def test_there_is_none_where_a_number_was_asked_for_or_it_could_never_be_enough(
    tokens: int | str | None, options: dict[str, object], method: str, model: PreTrainedModel, rows: list[Features]
) -> None:
    found = Pruner(model, rows, method=method, calibration_tokens=tokens, options=options).prune(MILD)
    assert "looking" not in found.facts.seconds
    assert found.facts.calibration.sequences >= 390 // 12


def test_there_is_none_of_few_tokens(model: PreTrainedModel, rows: list[Features]) -> None:
    few = rows[: 4 * (looks.WORTHWHILE * TOKENS // 40 - 1)]  # four have 40 tokens
    assert look_at(model, few) is None
    assert look_at(model, rows[: len(few) + 4]) is not None


def test_there_is_none_where_no_batch_would_be_left_to_judge_by(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "TOKENS", 2)
    assert look_at(model, [{"input_ids": [2, *range(5, 25), 3]}]) is None


def test_batches_as_they_were_given_are_all_taken(model: PreTrainedModel, rows: list[Features]) -> None:
    batches = Pruner(model, rows, calibration_tokens=None).calibration.batches
    assert Pruner(model, batches, options=ANY).prune(MILD).facts.calibration.sequences == 40


def test_it_says_what_it_does_and_counts_the_stages_that_follow(model: PreTrainedModel, rows: list[Features]) -> None:
    said: list[str] = []
    for options in (ANY, NONE):
        bars: list[str] = []
        stages = Stages(lambda items, text, bars=bars: bars.append(text) or items, 2, said.append)
        Pruner(model, rows, options=options, progress=stages).prune(MILD)
        assert all(" of " in bar.partition(":")[0] for bar in bars)
        assert bars[-1].startswith("2 of 2" if options is ANY else "4 of 4")
    assert [line.partition(":")[0] for line in said if "nats" in line] == [
        "more tokens would not pay",
        next(line for line in said if line.endswith("going on with all 400 tokens")).partition(":")[0],
    ]


def test_a_search_for_the_smallest_takes_looks(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    words = WORDS.split()
    texts = [f"{number} {words[number % len(words)]} {words[number % 7]} of the house" for number in range(120)]
    rows = Dataset.from_dict({"text": texts, "label": [number % 2 for number in range(len(texts))]})
    train, validation = rows.select(range(100)), rows.select(range(100, 120))
    project = Project(tiny_bert(), tokenizer, plugins.load("tasks", "classification"), train, validation)
    found = {}
    for name, options in (("any", ANY), ("none", NONE)):
        guarded = project.with_guard(0)
        pruner = guarded.pruner(options=options, judged=False)
        found[name] = smallest_within(guarded, pruner, 0.5, metric="kl").facts.calibration.sequences
        assert (found[name] < pruner.calibration.sequences) == (name == "any")


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(
    model: PreTrainedModel, rows: list[Features], tmp_path: Path
) -> None:
    for number, options in enumerate((ANY, NONE)):
        whole = Pruner(model, rows, options=options).prune(SEVERE)
        kept = Journal(tmp_path / str(number))
        first = Pruner(model, rows, options=options, journal=kept).prune(SEVERE)
        again = Pruner(model, rows, options=options, journal=kept).prune(SEVERE)
        assert same_weights(whole, first)
        assert same_weights(whole, again)


@pytest.mark.parametrize("scale", [1.0, 0.01, 100.0])
def test_numbers_are_compared_in_nats_whatever_their_unit(scale: float) -> None:
    dense, other = (tiny_model("bert", "regression", seed=seed) for seed in (0, 1))
    batches = [inputs(dense, (12, 7, 9, 12), seed=seed) for seed in range(4)]
    with torch.no_grad():
        values, others = (torch.cat([each(**batch).logits for batch in batches])[:, 0] for each in (dense, other))
        expected = (values - others).square().mean() / (2 * ERROR**2 * values.var(unbiased=False))
        for each in (dense, other):
            each.classifier.weight *= scale
            each.classifier.bias *= scale
    assert mean_divergence(dense, other, batches) == pytest.approx(float(expected), rel=1e-4)
    assert mean_divergence(dense, dense, batches) == 0.0


def test_one_row_of_numbers_is_taken_to_have_a_spread_of_one() -> None:
    dense, other = (tiny_model("bert", "regression", seed=seed) for seed in (0, 1))
    row = {name: values[:1] for name, values in inputs(dense, (12, 7)).items()}
    with torch.no_grad():
        apart = float((dense(**row).logits - other(**row).logits).square().sum())
    assert mean_divergence(dense, other, [row]) == pytest.approx(apart / (2 * ERROR**2), rel=1e-4)


def test_the_method_of_a_look_is_one_that_trains_nothing() -> None:
    method: Method = make_method("surgeon", {"epochs": 5, "ridge": 0.5})
    assert isinstance(method, Surgeon)
    assert method.looking() == replace(method, epochs=0)
