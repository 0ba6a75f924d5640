"""What the walk does to a student whose lower layers were damaged."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tiny_models import default_names, inputs, outputs, tiny_model
from trimformer.model.structure import features_first, read_structure
from trimformer.observing.boundary import Boundary
from trimformer.pruning.contract import Job
from trimformer.pruning.refit.walk import Stop, Walk


@pytest.fixture(params=["bert", "distilbert", "gpt2", "llama"])
def stops(request: pytest.FixtureRequest) -> Iterator[Stop]:
    """A walk at the entrance of block 1; the student's block 0 adds noise to what the dense one says."""
    generator = torch.Generator().manual_seed(0)
    stops = iter(Walk(job_of(request.param), "walking"))
    with torch.no_grad():
        for _ in range(2):
            stop = next(stops)
            weight = stop.job.student.consumer(stop.site).weight
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return stops


def job_of(architecture: str) -> Job:
    dense = read_structure(tiny_model(architecture))
    student = read_structure(copy.deepcopy(dense.model))
    batches = [inputs(dense.model, (20,) * 6, seed=seed) for seed in range(4)]
    return Job(dense, batches, 0, lambda items, _: items, student=student, costs={}, limit=0.0)


@torch.no_grad()
def produced(stop: Stop, boundary: Boundary) -> Tensor:
    """What the producers of a site compute, all tokens: `(tokens, all their outputs)`."""
    entering = torch.cat([boundary.entering(index, stop.site) for index in range(len(stop.job.batches))])
    projections = [boundary.structure.projection(producer.path) for producer in stop.site.producers]
    return torch.cat([projection(entering) for projection in projections], dim=1)


@pytest.mark.parametrize("position", [2, 3])
def test_aligned_producers_are_nearest_to_the_dense_ones(stops: Iterator[Stop], position: int) -> None:
    stop = [next(stops) for _ in range(position - 1)][-1]
    walk, site = stop.walk, stop.site
    assert site == stop.job.student.sites[position]
    wanted = produced(stop, walk.dense)
    before = (produced(stop, walk.student) - wanted).square().mean()
    entering = torch.cat([walk.student.entering(index, site) for index in range(len(walk.job.batches))])
    constant = torch.ones(len(entering), 1) if all(producer.bias for producer in site.producers) else entering[:, :0]
    design = torch.cat([entering, constant], dim=1).double()
    best = (design @ torch.linalg.lstsq(design, wanted.double()).solution - wanted).square().mean()
    stop.align(ridge=1e-6, intercept=True)
    after = (produced(stop, walk.student) - wanted).square().mean()
    assert best < 0.8 * before
    torch.testing.assert_close(after.double(), best, rtol=1e-2, atol=0)


def producer_weights(stop: Stop) -> list[Tensor]:
    student = stop.job.student
    return [features_first(student.projection(producer.path)) for producer in stop.site.producers]


def test_a_strong_ridge_leaves_producers_as_they_are(stops: Iterator[Stop]) -> None:
    stop = next(stops)
    before = [weight.clone() for weight in producer_weights(stop)]
    stop.align(ridge=1e9, intercept=True)
    for now, then in zip(producer_weights(stop), before, strict=True):
        torch.testing.assert_close(now, then, atol=1e-5, rtol=0)


def test_the_first_sublayer_is_left_alone() -> None:
    stop = next(iter(Walk(job_of("bert"), "walking")))
    before = [weight.clone() for weight in producer_weights(stop)]
    stop.align(ridge=0.0, intercept=True)
    for now, then in zip(producer_weights(stop), before, strict=True):
        assert torch.equal(now, then)


def test_looking_twice_gives_the_same() -> None:
    for stop in Walk(job_of("gpt2"), "walking"):
        first, second = stop.regression(), stop.regression()
        assert torch.equal(first.products, second.products)


def test_every_site_is_visited_once_and_no_block_runs_after_the_last() -> None:
    job = job_of("bert")
    last, runs = job.student.block(job.student.sites[-1]), []
    visited = []
    for stop in Walk(job, "walking"):
        visited.append(stop.site)
        if stop.site == job.student.sites[-1]:
            last.register_forward_hook(lambda *_: runs.append(1))
    assert visited == list(job.student.sites)
    assert not runs


@pytest.mark.parametrize("architecture", default_names())
def test_a_refit_of_a_damaged_student_brings_back_the_dense_model(architecture: str) -> None:
    """With no unit removed, exactly: streams are taken where each consumer's output is added."""
    job = job_of(architecture)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for site in job.student:
            weight = job.student.consumer_weight(site)
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    batch = job.batches[0]
    expected = outputs(job.dense.model.base_model, batch)
    before = (outputs(job.student.model.base_model, batch) - expected).abs().max()
    for stop in Walk(job, "refitting"):
        stop.solve(stop.regression(), ridge=1e-9, intercept=stop.site.consumer_bias)
    after = (outputs(job.student.model.base_model, batch) - expected).abs().max()
    assert after < 2e-3 * before
