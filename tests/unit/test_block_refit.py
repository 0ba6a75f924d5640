"""The refit that is not linear: what it brings nearer, what it leaves alone, and what it may never make worse."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tiny_models import CONFIGS, inputs, outputs, tiny_model
from trimformer.data.rows import Batch
from trimformer.data.varying import varied
from trimformer.methods.surgeon import Surgeon
from trimformer.model.structure import Structure, read_structure
from trimformer.observing import precision
from trimformer.observing.boundary import Boundary
from trimformer.pruning.budget import Budget
from trimformer.pruning.contract import Job
from trimformer.pruning.pruner import Pruner
from trimformer.pruning.refit import blocks
from trimformer.pruning.refit.blocks import Training, _Losses, _text, train_blocks

SOME = Training(epochs=3, rate=1e-2)
UNTRAINED = {"epochs": 0}
COMMON = ("bert", "llama", "albert", "modernbert")


def job_of(architecture: str, *, damage: float, batches: int = 12, layers: int | None = None, first: int = 0) -> Job:
    """A job whose student is the dense model with noise in its weights, from some block on."""
    dense = read_structure(tiny_model(architecture, **({} if layers is None else {"num_hidden_layers": layers})))
    student = read_structure(copy.deepcopy(dense.model))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for site in student.sites:
            for weight in student.block(site).parameters() if site.block >= first else ():
                weight.add_(damage * torch.randn(weight.shape, generator=generator))
    rows = [inputs(dense.model, (12, 7, 9, 12), seed=seed) for seed in range(batches)]
    return Job(dense, rows, 0, lambda items, _: items, student=student, costs={}, limit=0.0)


@torch.no_grad()
def first_block(structure: Structure, batch: Batch) -> Tensor:
    """What the first block puts out, at real tokens."""
    boundary, mask = Boundary(structure, [batch]), structure.token_mask(batch)
    found = boundary.block_output(0)
    return found if mask is None else found[mask]


def some_architectures(*common: str) -> list[Any]:
    """All architectures; those that are not common are slow cases."""
    return [pytest.param(name, marks=[] if name in common else pytest.mark.slow) for name in CONFIGS]


def brought_nearer(architecture: str) -> PreTrainedModel:
    """Train a student with damaged blocks; its first one must come nearer to the dense one on rows it has not seen."""
    job = job_of(architecture, damage=0.1)
    unseen = inputs(job.dense.model, (12, 7, 9, 12), seed=99)
    wanted, before = first_block(job.dense, unseen), first_block(job.student, unseen)
    train_blocks(job, SOME)
    after = first_block(job.student, unseen)
    assert (after - wanted).square().mean() < 0.9 * (before - wanted).square().mean()
    return job.student.model


@pytest.mark.parametrize("architecture", some_architectures(*COMMON))
def test_it_brings_a_damaged_block_nearer_to_the_dense_one_on_rows_it_has_not_seen(architecture: str) -> None:
    model = brought_nearer(architecture)
    assert not any(weight.requires_grad and weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("architecture", ["bert", "llama", "albert"])
def test_the_dense_model_itself_stays_as_it_is_to_the_last_bit(architecture: str) -> None:
    job = job_of(architecture, damage=0.0)
    before = copy.deepcopy(job.student.model.state_dict())
    train_blocks(job, SOME)
    for name, values in job.student.model.state_dict().items():
        assert torch.equal(values, before[name]), name


@pytest.mark.parametrize("training", [Training(epochs=2, rate=10.0), Training(epochs=0, rate=1e-2)])
def test_weights_stay_where_training_makes_what_is_held_out_worse(training: Training) -> None:
    job = job_of("bert", damage=0.05)
    before = copy.deepcopy(job.student.model.state_dict())
    train_blocks(job, training)
    for name, values in job.student.model.state_dict().items():
        assert torch.equal(values, before[name]), name


@pytest.mark.parametrize(("rate", "first", "changed"), [(1e4, 0, []), (1e-2, 0, [0, 1, 2, 3, 4, 5]), (1e-2, 4, [4, 5])])
def test_it_is_given_up_where_three_blocks_gain_nothing_and_those_without_loss_do_not_count(
    rate: float, first: int, changed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, trained = job_of("bert", damage=0.05, layers=6, first=first), list[int]()
    before = copy.deepcopy(job.student.model.state_dict())

    def counting(job: Job, student: Boundary, *others: Any) -> float:
        trained.append(student.block)
        return blocks._train(job, student, *others)

    monkeypatch.setattr(blocks, "_settle", lambda job, student, *others: counting(job, student, *others[:-1]))
    train_blocks(job, Training(3, rate))
    after = {name: not torch.equal(values, before[name]) for name, values in job.student.model.state_dict().items()}
    assert [block for block in range(6) if any(after[name] for name in after if f"layer.{block}." in name)] == changed
    assert trained == ([0, 1, 2] if rate > 1 else [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize(("gain", "tried"), [(0.002, 6), (0.0, 3)])
def test_blocks_that_gain_little_do_not_end_it(gain: float, tried: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()

    def settle(_: Job, student: Boundary, *__: Any) -> float:
        asked.append(student.block)
        return gain

    monkeypatch.setattr(blocks, "_settle", settle)
    train_blocks(job_of("bert", damage=0.05, layers=6), SOME)
    assert asked == list(range(tried))


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have blocks of every width run in mixed precision, whatever this machine has units for."""
    monkeypatch.setattr(precision, "LEAST_WIDTH", 1)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _: True)


@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize("architecture", some_architectures(*COMMON, "xmod"))
def test_it_does_so_in_mixed_precision_and_without_it_where_code_puts_types_together(architecture: str) -> None:
    model = brought_nearer(architecture)
    assert {weight.dtype for weight in model.parameters() if weight.is_floating_point()} == {torch.float32}


@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize("architecture", COMMON)
def test_gradients_in_mixed_precision_are_those_in_float32_up_to_rounding(architecture: str) -> None:
    job = job_of(architecture, damage=0.1, batches=1)
    weights = [weight for weight in job.student.block(job.student.sites[0]).parameters() if weight.is_floating_point()]

    def gradients(*, mixed: bool) -> Tensor:
        dense, student = (Boundary(each, job.batches, mixed=mixed) for each in (job.dense, job.student))
        dense.advance()
        assert dense.hidden[0].dtype is torch.float32
        for weight in weights:
            weight.requires_grad, weight.grad = True, None
        _Losses(student, dense.hidden, 1.0)(0).backward()
        return torch.cat([torch.zeros(0), *(weight.grad.flatten() for weight in weights if weight.grad is not None)])

    exact, rounded = gradients(mixed=False), gradients(mixed=True)
    assert not torch.equal(exact, rounded)
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@pytest.mark.usefixtures("mixed")
def test_hidden_states_stay_in_float32_where_a_block_ends_in_a_product() -> None:
    dense = read_structure(tiny_model("bert"))
    boundary = Boundary(dense, [inputs(dense.model, (12, 7), seed=0)], mixed=True)

    def end_in_a_product(_: nn.Module, __: Any, output: Tensor | tuple[Tensor, ...]) -> Tensor:
        return (output if isinstance(output, Tensor) else output[0]).bfloat16()

    dense.blocks()[0].register_forward_hook(end_in_a_product)
    boundary.advance()
    assert boundary.hidden[0].dtype is torch.float32


def test_where_mixed_precision_does_not_pay_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(hidden: Tensor) -> bool:
        with precision.mixed_precision(hidden):
            return torch.is_autocast_enabled("cpu")

    assert not any(precision.multiplies_bfloat16(torch.device(name)) for name in ("meta", "mps"))
    for units in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: {"amx_bf16": units}, raising=False)
        assert changed(torch.zeros(1, 3, 256)) == units
        assert not changed(torch.zeros(1, 3, 255))
        assert not changed(torch.zeros(1, 3, 256, dtype=torch.bfloat16))
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not changed(torch.zeros(1, 3, 256))


def test_every_epoch_has_each_batch_once_in_another_version_than_the_one_before_and_none_that_is_held_out() -> None:
    rows = [inputs(tiny_model("bert"), (12, 7, 9, 12), seed=seed) for seed in range(12)]
    text = _text(rows, epochs=3, seed=0)
    assert text is not None
    held = [text.batches[index]["input_ids"] for index in text.held]
    own = [row for row in rows if not any(torch.equal(row["input_ids"], each) for each in held)]
    assert len(held) + len(own) == len(rows)
    assert len(text.batches) == len(held) + 2 * len(own)
    assert all(set(one).isdisjoint(next_one) for one, next_one in pairwise(text.epochs))
    for epoch in text.epochs:
        given = [text.batches[index] for index in epoch]
        assert all(torch.equal(a["attention_mask"], b["attention_mask"]) for a, b in zip(given, own, strict=True))
        as_they_are = sum(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(given, own, strict=True))
        assert 0 < as_they_are < len(own)
    held_twice, twice = text.times(2)
    assert held_twice == [*text.held, *(index + len(text.batches) for index in text.held)]
    assert sorted({*held_twice, *(index for epoch in twice for index in epoch)}) == list(range(2 * len(text.batches)))


def test_what_is_no_text_is_trained_on_as_it_is() -> None:
    rows = [{"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(2, 3), "pixel_values": torch.ones(2, 3)}] * 12
    text = _text(rows, epochs=3, seed=0)
    assert text is not None
    assert len(text.batches) == len(rows)
    assert text.epochs[0] == text.epochs[1] == text.epochs[2]


def test_one_batch_is_too_few() -> None:
    job = job_of("bert", damage=0.05, batches=1)
    before = copy.deepcopy(job.student.model.state_dict())
    train_blocks(job, SOME)
    assert all(torch.equal(values, before[name]) for name, values in job.student.model.state_dict().items())


def test_what_lies_outside_of_the_blocks_and_the_dense_model_are_never_touched() -> None:
    job = job_of("gpt2", damage=0.1)
    inside = {id(weight) for block in job.student.blocks() for weight in block.parameters()}
    models = job.dense.model, job.student.model
    outside = {name: w for model in models for name, w in model.named_parameters() if id(w) not in inside}
    before = {name: weight.clone() for name, weight in outside.items()}
    train_blocks(job, SOME)
    assert all(torch.equal(weight, before[name]) for name, weight in outside.items())


@pytest.mark.parametrize("architecture", ["bert", "llama", "albert"])
def test_a_model_damaged_in_all_blocks_answers_more_like_the_dense_one(architecture: str) -> None:
    job = job_of(architecture, damage=0.05)
    unseen = inputs(job.dense.model, (12, 7, 9, 12), seed=99)
    wanted, before = outputs(job.dense.model, unseen), outputs(job.student.model, unseen)
    train_blocks(job, SOME)
    after = outputs(job.student.model, unseen)
    assert (after - wanted).square().mean() < 0.9 * (before - wanted).square().mean()


def test_surgeon_keeps_the_same_units_and_trains_what_is_left_of_them() -> None:
    model = tiny_model("bert")
    rows = [inputs(model, (12, 7, 9, 12), seed=seed) for seed in range(60)]
    plain, trained = (
        Pruner(model, rows, options=options).prune(Budget(flops=0.6))
        for options in (UNTRAINED | {"narrow": False}, {"epochs": 3, "rate": 2e-2, "negligible": 0.0, "narrow": False})
    )
    assert trained.facts.units == plain.facts.units
    assert trained.facts.options["epochs"] == 3
    assert not torch.equal(outputs(trained.model, rows[0]), outputs(plain.model, rows[0]))


def test_nothing_is_trained_where_the_predictions_differ_by_no_more_than_is_negligible() -> None:
    """The divergence that is compared is the one by definition, of the batches held out, in a varied version."""
    job = job_of("bert", damage=0.1)
    text = _text(job.batches, epochs=3, seed=0)
    assert text is not None
    held = varied([text.batches[index] for index in text.held], job.seed)
    with torch.no_grad():
        dense, student = (
            torch.cat([torch.log_softmax(each.model(**batch).logits, -1) for batch in held])
            for each in (job.dense, job.student)
        )
    divergence = float((dense.exp() * (dense - student)).sum(-1).mean())
    before = copy.deepcopy(job.student.model.state_dict())

    def changed() -> bool:
        return any(not torch.equal(values, before[name]) for name, values in job.student.model.state_dict().items())

    train_blocks(job, replace(SOME, negligible=divergence * 1.001))
    assert not changed()
    train_blocks(job, replace(SOME, negligible=divergence * 0.999))
    assert changed()


def test_blocks_are_not_trained_without_gradients_or_without_the_refit() -> None:
    assert Surgeon(epochs=2).training_epochs == 2
    assert Surgeon(epochs=2, tune=False).training_epochs == 0
    assert Surgeon(epochs=2, gradients=False).training_epochs == 0
    assert Surgeon(epochs=2, gradients=False).backward == "none"


def test_it_is_in_the_time_that_a_plan_foretells() -> None:
    plain, trained = (Surgeon(epochs=epochs).effort.after(10.0, sites=4) for epochs in (0, 5))
    assert plain is not None
    assert trained is not None
    assert trained > 2 * plain
