"""Scales solve the least squares over tokens without keeping tokens, and undo what scales have done."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from tiny_models import inputs, outputs, tiny_model
from trimformer.data.batches import only
from trimformer.data.rows import MODEL_INPUTS
from trimformer.errors import NumericalError
from trimformer.model.structure import read_structure
from trimformer.observing.sums import RegressionSums
from trimformer.pruning.budget import linear_table
from trimformer.pruning.contract import Job
from trimformer.pruning.refit.rescaling import UnitSystem, rescale, teacher_job, tokens_read, unit_scales, unit_system
from trimformer.pruning.uniform import uniform_job


@pytest.mark.parametrize("units", [3, 12])
def test_system_is_that_of_the_units_outputs_over_all_tokens(units: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, targets = (torch.randn(50, n, generator=generator) + 1 for n in (12, 5))
    weight, bias = (torch.randn(*shape, generator=generator) for shape in ((12, 5), (5,)))
    sums = RegressionSums(12, 5, "cpu")
    for part in range(0, 50, 20):
        sums.add(hidden[part : part + 20], targets[part : part + 20])
    by_unit = torch.einsum("tuw,uwo->tou", hidden.reshape(50, units, -1), weight.reshape(units, -1, 5)).reshape(
        250, units
    )
    system = unit_system(sums, weight, bias, units)
    wanted = by_unit.T @ (targets - bias).reshape(250)
    torch.testing.assert_close(system.matrix.float(), by_unit.T @ by_unit, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(system.right.float(), wanted, rtol=1e-4, atol=1e-3)


def test_damping_pulls_scales_to_one_and_wild_scales_are_refused() -> None:
    matrix = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
    scales = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    system = UnitSystem(matrix, matrix @ scales)
    found = unit_scales(system, 0.0, "here")
    assert found is not None
    torch.testing.assert_close(found, scales, atol=1e-5, rtol=0)
    damped = unit_scales(system, 1e9, "here")
    assert damped is not None
    torch.testing.assert_close(damped, torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
    wild = UnitSystem(matrix, matrix @ torch.tensor([1.0, 1.0, 11.0], dtype=torch.float64))
    assert unit_scales(wild, 0.0, "here") is None
    with pytest.raises(NumericalError, match="singular system at site here"):
        unit_scales(UnitSystem(torch.ones(2, 2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)), 0.0, "here")
    silent = unit_scales(UnitSystem(torch.zeros(2, 2), torch.zeros(2)), 0.1, "here")
    assert silent is not None
    assert silent.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("architecture", "head", "read"),
    [
        ("bert", "sequence classification", "first"),
        ("distilbert", "regression", "first"),
        ("gpt2", "sequence classification", "last"),
        ("bert", "question answering", None),
        ("bert", "encoder", None),
        ("gpt2", "language model", None),
    ],
)
def test_it_is_seen_which_token_is_read(architecture: str, head: str, read: str | None) -> None:
    model = tiny_model(architecture, head)
    batches = [inputs(model), inputs(model, (3, 5))]
    found = tokens_read(read_structure(model), batches)
    positions = {"first": [(11, 0), (4, 0), (7, 0)], "last": [(11, 10), (4, 3), (7, 6)]}
    if read is None:
        assert found is None
        return
    expected = torch.cat([torch.eye(length)[place] for length, place in positions[read]])
    assert found is not None
    assert torch.equal(found[0], expected)
    assert [int(values.sum()) for values in found] == [3, 2]


def job_of(architecture: str, head: str) -> Job:
    model = tiny_model(architecture, head)
    dense, student = read_structure(model), read_structure(copy.deepcopy(model))
    rows = [inputs(model, (20, 13, 17), seed) for seed in range(6)]
    tables = {site.name: linear_table(site.units, 1.0) for site in dense}
    return Job(dense, only(rows, MODEL_INPUTS), 0, lambda items, _: items, student=student, costs=tables, limit=14.0)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_scaled_units_are_scaled_back(architecture: str) -> None:
    job = job_of(architecture, "sequence classification")
    scaled = [site for site in job.student if (site.kind, site.block) != ("head", 0)]
    with torch.no_grad():
        for site in scaled:
            job.student.consumer_weight(site).mul_(
                torch.linspace(0.5, 2.0, site.units).repeat_interleave(site.unit_width)[:, None]
            )
    before = outputs(job.dense.model, inputs(job.dense.model))
    assert (outputs(job.student.model, inputs(job.dense.model)) - before).abs().max() > 0.01
    rescale(job, job.dense.full_masks(), job.dense.full_masks(), damping=1e-6)
    torch.testing.assert_close(outputs(job.student.model, inputs(job.dense.model)), before, atol=2e-3, rtol=1e-3)


def test_the_teacher_is_the_dense_model_without_the_units_it_lacks() -> None:
    job = job_of("bert", "token classification")
    last = job.dense.sites[-1]
    nobody = {site.name: torch.zeros(site.units, dtype=torch.bool) for site in job.dense}
    rescale(job, job.dense.full_masks(), job.dense.full_masks() | {last.name: nobody[last.name]}, damping=1e-6)
    shrunk = job.student.consumer_weight(last).norm() / job.dense.consumer_weight(last).norm()
    assert shrunk < 0.05


def test_the_teachers_budget_is_half_way() -> None:
    job = job_of("bert", "encoder")
    total = sum(float(table[-1]) for table in job.costs.values())
    assert teacher_job(job).limit == pytest.approx((job.limit / total) ** 0.5 * total)
    assert teacher_job(replace(job, limit=total)).limit == pytest.approx(total)


def test_uniform_sizes_do_not_bind_the_teacher() -> None:
    job = replace(job_of("bert", "encoder"), limit=30.0)
    bound = uniform_job(job, job.dense.full_masks())
    teacher = teacher_job(bound)
    assert teacher.limit == pytest.approx(teacher_job(job).limit)
    everything = sum(float(table[-1]) for table in job.costs.values())
    assert bound.bounds.cost(job.costs)[1] < teacher.limit < teacher.bounds.cost(job.costs)[1] == everything
