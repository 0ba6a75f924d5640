"""Blocks that run several times, as ALBERT's one does: every pass counts, against computations written out here."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tiny_models import inputs, tiny_model
from trimformer import plugins
from trimformer.data.batches import Workload
from trimformer.data.rows import Batch
from trimformer.methods.kprune import KPrune
from trimformer.model.sites import Site
from trimformer.model.structure import Structure, read_structure
from trimformer.observing.boundary import Boundary
from trimformer.observing.calibration import Calibration
from trimformer.observing.moments import moments
from trimformer.observing.predictions import fisher_loss, predictions
from trimformer.observing.watching import frozen
from trimformer.pruning.contract import Job
from trimformer.pruning.refit.walk import Walk

PASSES = 3


@pytest.fixture
def dense() -> Structure:
    return read_structure(tiny_model("albert", num_hidden_layers=PASSES))


@pytest.fixture
def batches(dense: Structure) -> list[Batch]:
    return [inputs(dense.model, (11, 7, 9), seed=seed) for seed in range(5)]


def job_of(dense: Structure, batches: list[Batch]) -> Job:
    student = read_structure(copy.deepcopy(dense.model))
    return Job(dense, batches, 0, lambda items, _: items, student=student, costs={}, limit=0.0)


@torch.no_grad()
def seen_in_passes(structure: Structure, module: nn.Module, batch: Batch) -> list[tuple[Any, Tensor]]:
    """Inputs and output of a module at every pass of a whole forward run."""
    seen: list[tuple[Any, Tensor]] = []
    handle = module.register_forward_hook(lambda _, args, output: seen.append((args, output)))
    structure.model(**batch)
    handle.remove()
    assert len(seen) == PASSES
    return seen


def test_one_block_is_read_and_counts_as_often_as_it_runs(dense: Structure) -> None:
    assert [(site.kind, site.block, site.passes) for site in dense] == [("head", 0, PASSES), ("neuron", 0, PASSES)]
    once = read_structure(tiny_model("albert", num_hidden_layers=1))
    for cost, factor in (("flops", PASSES), ("params", 1)):
        prices = plugins.load("costs", cost).prices
        several, one = (prices(structure, Workload(9)).tables for structure in (dense, once))
        assert all(torch.equal(several[name], factor * one[name]) for name in several)


def test_streams_are_those_of_every_pass(dense: Structure, batches: list[Batch]) -> None:
    boundary = Boundary(dense, batches)
    assert len(boundary.batches) == len(boundary.hidden) == PASSES * len(batches)
    for index, batch in enumerate(batches):
        for number, (args, output) in enumerate(seen_in_passes(dense, dense.blocks()[0], batch)):
            place = number * len(batches) + index
            torch.testing.assert_close(boundary.hidden[place], args[0])
            torch.testing.assert_close(boundary.block_output(place), output)
        torch.testing.assert_close(boundary.tail(index).logits, dense.model(**batch).logits)


@pytest.mark.parametrize("position", [0, 1])
def test_a_refit_is_the_least_squares_solution_over_all_passes(
    dense: Structure, batches: list[Batch], position: int
) -> None:
    """The student's block is run on what enters the dense one in every pass; its sum is to be that one's."""
    job = job_of(dense, batches)
    name = dense.sites[position].name
    features: list[Tensor] = []
    wanted: list[Tensor] = []
    for stop in Walk(job, "refitting"):
        generator = torch.Generator().manual_seed(2)
        stop.cut(torch.rand(stop.site.units, generator=generator) < 0.5)
        if stop.site.name == name:
            for batch in batches:
                rows = read_by_hand(job, stop.site, batch)
                features += [read for read, _ in rows]
                wanted += [target for _, target in rows]
        stop.solve(stop.regression(), ridge=0.0, intercept=True)
        if stop.site.name == name:
            break
    design = torch.cat([torch.cat(features), torch.ones(sum(map(len, features)), 1)], dim=1).double()
    best = torch.linalg.lstsq(design, torch.cat(wanted).double()).solution
    site = job.student[name]
    torch.testing.assert_close(job.student.consumer_weight(site).double(), best[:-1], atol=1e-4, rtol=1e-3)
    bias = job.student.consumer_bias(site)
    assert bias is not None
    torch.testing.assert_close(bias.double(), best[-1], atol=1e-4, rtol=1e-3)


@torch.no_grad()
def read_by_hand(job: Job, site: Site, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """By pass: what the student's consumer reads, and what it has to give, `(tokens, …)` of one batch."""
    real = batch["attention_mask"].bool()
    dense, student = job.dense.blocks()[0], job.student.blocks()[0]
    found = []
    for args, _ in seen_in_passes(job.dense, dense, batch):
        stream, further = args[0], args[1:]
        theirs, mine = (block.attention(stream, *further)[0] for block in (dense, student))
        if site.kind == "head":
            _, target = last_of(dense.attention.dense, dense.attention, stream, *further)
            read, _ = last_of(student.attention.dense, student.attention, stream, *further)
        else:
            target = theirs + dense.ffn_output(dense.activation(dense.ffn(theirs))) - mine
            read = student.activation(student.ffn(mine))
        found.append((read[real], target[real]))
    return found


def last_of(projection: nn.Module, attention: nn.Module, *args: Any) -> tuple[Tensor, Tensor]:
    seen: list[tuple[Tensor, Tensor]] = []
    handle = projection.register_forward_hook(lambda _, read, output: seen.append((read[0], output)))
    attention(*args)
    handle.remove()
    return seen[0]


def mask_slopes(structure: Structure, site: Site, batch: Batch) -> Tensor:
    """The gradient of every row's loss by masks that are variables, the same in all passes: `(rows, units)`."""
    mask = torch.ones(len(batch["input_ids"]), site.units, requires_grad=True)
    handle = structure.consumer(site).register_forward_pre_hook(
        lambda _, read: read[0] * mask.repeat_interleave(site.unit_width, dim=1)[:, None]
    )
    loss = fisher_loss(predictions(structure.model(**batch), batch, structure.model), batch, seed=0)
    handle.remove()
    loss.sum().backward()
    assert mask.grad is not None
    return mask.grad


def test_a_unit_is_judged_by_all_passes_together(dense: Structure, batches: list[Batch]) -> None:
    """K-prune squares what a row's loss changes by, when the unit goes from every pass at once."""
    method = KPrune(predictive="fisher", lambda_rep=0.0, lambda_pred=1.0, mu=1.0)
    job = job_of(dense, batches)
    costs = {site.name: torch.arange(site.units + 1).double() for site in dense}
    job = Job(dense, batches, 0, lambda items, _: items, student=job.student, costs=costs, limit=0.0)
    walk = Walk(job, "measuring")
    found = method.knowledge(job, walk.student, lambda index: pytest.fail(f"asked for {index}"), dense.sites)
    for site in dense:
        slopes = torch.cat([mask_slopes(dense, site, batch) for batch in batches])
        expected = slopes.double().square().sum(0) / (2 * job.sequences) / site.unit_width
        torch.testing.assert_close(found[site.name].double(), expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("gradients", [False, True])
def test_moments_are_sums_over_passes(dense: Structure, batches: list[Batch], gradients: bool) -> None:
    calibration = Calibration(dense, batches, 0, lambda items, _: items)
    with frozen(dense.model):
        (group,) = moments(calibration, gradients=gradients)
    for site in dense:
        rows = []
        for batch in batches:
            real = batch["attention_mask"].bool()
            rows += [args[0][real] for args, _ in seen_in_passes(dense, dense.consumer(site), batch)]
        read = torch.cat(rows).double()
        assert len(read) == group[site.name].inputs.tokens == PASSES * calibration.tokens
        torch.testing.assert_close(
            group[site.name].inputs.covariance, torch.cov(read.T, correction=0), atol=1e-5, rtol=1e-4
        )
