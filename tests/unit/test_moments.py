"""Moments are the same with all of a model at once as block by block, where only one block's are held."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tiny_models import default_names, heads_of, inputs, is_causal, main_head, tiny_model
from trimformer.errors import InvalidOption
from trimformer.methods.surgeon import Surgeon
from trimformer.model.structure import read_structure
from trimformer.observing import moments
from trimformer.observing.calibration import Calibration
from trimformer.observing.measurements import to_tensors
from trimformer.observing.watching import frozen
from trimformer.pruning.choose.curves import damped, removal_curve


def calibration_of(model: PreTrainedModel) -> Calibration:
    batches = [inputs(model, seed=seed) for seed in range(3)]
    return Calibration(read_structure(model), batches, 0, lambda items, _: items)


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "SHARE_OF_MEMORY", 0.0)


@pytest.mark.parametrize("architecture", default_names())
@pytest.mark.parametrize("token_head", [False, True])
def test_block_by_block_equals_all_at_once(
    architecture: str, token_head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_token = "language model" if is_causal(architecture) else heads_of(architecture)[-1]
    calibration = calibration_of(tiny_model(architecture, per_token if token_head else main_head(architecture)))
    together = to_tensors(Surgeon().measure(calibration))
    monkeypatch.setattr(moments, "SHARE_OF_MEMORY", 0.0)
    apart = to_tensors(Surgeon().measure(calibration))
    assert apart.keys() == together.keys()
    for name, values in together.items():
        torch.testing.assert_close(apart[name], values, rtol=1e-4, atol=1e-6 * float(values.abs().max()))


@pytest.mark.usefixtures("short_of_memory")
@pytest.mark.parametrize("gradients", [False, True])
def test_only_one_block_is_held(gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    class Counted(moments.RegressionSums):
        def __init__(self, *arguments: Any) -> None:
            nonlocal most
            super().__init__(*arguments)
            alive.add(self)
            most = max(most, len(alive))

    monkeypatch.setattr(moments, "RegressionSums", Counted)
    calibration = calibration_of(tiny_model("llama", num_hidden_layers=4))
    with frozen(calibration.dense.model):
        names = []
        for group in moments.moments(calibration, gradients=gradients):
            names += list(group)
            group.clear()
    assert sorted(names) == sorted(site.name for site in calibration.dense)
    assert most == 2, "the two sites of a block"


def test_without_gradients_a_change_costs_its_square() -> None:
    calibration = calibration_of(tiny_model("bert"))
    measured = Surgeon(gradients=False).measure(calibration)
    assert all(found.metric is None and found.energy is None for found in measured.values())
    site, seen = calibration.dense.sites[1], Surgeon().measure(calibration)
    assert not torch.equal(seen[site.name].cost, measured[site.name].cost)
    with frozen(calibration.dense.model):
        sums = next(group for group in moments.moments(calibration, gradients=False) if site.name in group)[
            site.name
        ].inputs
    weight = calibration.dense.consumer_weight(site)
    expected = removal_curve(
        damped(sums.covariance, 1e-4), damped(torch.eye(site.width), 0.3), weight, site.units, site="ffn"
    )
    assert torch.equal(measured[site.name].order, expected.order)
    torch.testing.assert_close(measured[site.name].cost, expected.cost)


def test_no_focus_without_gradients() -> None:
    with pytest.raises(InvalidOption, match="`focus` weighs tokens by their gradients"):
        Surgeon(gradients=False, focus=0.5)


@pytest.mark.usefixtures("short_of_memory")
def test_the_model_stays_as_it_was() -> None:
    model = tiny_model("gpt2")
    calibration = calibration_of(model)
    before = {name: (id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()}
    Surgeon().measure(calibration)
    assert {name: (id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()} == before
    assert all(parameter.grad is None for parameter in model.parameters())
