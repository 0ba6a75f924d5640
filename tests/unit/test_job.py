"""What the walk does to a student whose lower layers were damaged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tiny_models import inputs, tiny_model
from trimformer.model.sites import Site
from trimformer.model.structure import Structure, read_structure
from trimformer.pruning.contract import Job
from trimformer.pruning.refit.walk import Walk


@pytest.fixture(params=["bert", "distilbert", "gpt2", "llama"])
def walk(request: pytest.FixtureRequest) -> Walk:
    """At the entrance of block 1; the student's block 0 adds noise to what the dense one says."""
    dense = read_structure(tiny_model(request.param))
    student = read_structure(copy.deepcopy(dense.model))
    batches = [inputs(dense.model, (20,) * 6, seed=seed) for seed in range(4)]
    job = Job(dense, batches, 0, lambda items, _: items, student=student, costs={}, limit=0.0)
    generator = torch.Generator().manual_seed(0)
    walk = Walk(job)
    with torch.no_grad():
        for site in student.sites[:2]:
            weight = student.consumer(site).weight
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
            walk.leave(site)
    return walk


@torch.no_grad()
def produced(walk: Walk, structure: Structure, site: Site) -> Tensor:
    """What the producers of a site compute, all tokens: `(tokens, all their outputs)`."""
    boundary = walk.dense if structure is walk.job.dense else walk.student
    entering = torch.cat([boundary.entering(index, site) for index in range(len(walk.job.batches))])
    return torch.cat([structure.projection(producer.path)(entering) for producer in site.producers], dim=1)


@pytest.mark.parametrize("position", [2, 3])
def test_aligned_producers_are_nearest_to_the_dense_ones(walk: Walk, position: int) -> None:
    site = walk.job.student.sites[position]
    wanted = produced(walk, walk.job.dense, site)
    before = (produced(walk, walk.job.student, site) - wanted).square().mean()
    entering = torch.cat([walk.student.entering(index, site) for index in range(len(walk.job.batches))])
    constant = torch.ones(len(entering), 1) if all(producer.bias for producer in site.producers) else entering[:, :0]
    design = torch.cat([entering, constant], dim=1).double()
    best = (design @ torch.linalg.lstsq(design, wanted.double()).solution - wanted).square().mean()
    walk.align(site, ridge=1e-6, intercept=True)
    after = (produced(walk, walk.job.student, site) - wanted).square().mean()
    assert best < 0.8 * before
    torch.testing.assert_close(after.double(), best, rtol=1e-2, atol=0)


def test_a_strong_ridge_leaves_producers_as_they_are(walk: Walk) -> None:
    site = walk.job.student.sites[2]
    before = [weight.clone() for weight in walk.job.student.producer_weights(site)]
    walk.align(site, ridge=1e9, intercept=True)
    for now, then in zip(walk.job.student.producer_weights(site), before, strict=True):
        torch.testing.assert_close(now, then, atol=1e-5, rtol=0)


def test_the_first_sublayer_is_left_alone(walk: Walk) -> None:
    fresh = Walk(walk.job)
    site = walk.job.student.sites[0]
    before = [weight.clone() for weight in walk.job.student.producer_weights(site)]
    fresh.align(site, ridge=0.0, intercept=True)
    for now, then in zip(walk.job.student.producer_weights(site), before, strict=True):
        assert torch.equal(now, then)
