"""Every method works where the model is, though batches come from the CPU: no tensor is left behind on the way."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import reach
import torch
from elsewhere import HERE, THERE, There, elsewhere

from tiny_models import HEADS, SETTINGS, SHARES, labelled, tiny_model
from trimformer import Budget, Pruner, plugins
from trimformer.data.batches import make_batches
from trimformer.data.rows import Features
from trimformer.pruning.result import PruningResult

LENGTHS = (12, 3, 9, 7, 12, 5, 8, 10)


def rows(head: str) -> list[Features]:
    generator = torch.Generator().manual_seed(0)
    plain = [{"input_ids": torch.randint(8, 120, (length,), generator=generator).tolist()} for length in LENGTHS]
    return labelled(plain, head)


def options_of(method: str, **given: Any) -> dict[str, Any]:
    names = {field.name for field in fields(plugins.load("methods", method))}
    return SETTINGS.get(method, {}) | ({"tune": True} if "tune" in names else {}) | given


def pruner_of(method: str, head: str, device: torch.device, **given: Any) -> Pruner:
    """Of a model on a device, and batches on the CPU."""
    architecture = "gpt2" if head == "language model" else "bert"
    model = tiny_model(architecture, head, attn_implementation="eager").to(device)
    data = make_batches(rows(head), None, HERE, labels=head != "encoder")
    return Pruner(model, data, method=method, options=options_of(method, **given))


def pruned(method: str, head: str, device: torch.device, **given: Any) -> PruningResult:
    return pruner_of(method, head, device, **given).prune(Budget(flops=SHARES.get(method, 0.5)))


def assert_the_same(found: PruningResult, expected: PruningResult) -> None:
    for name, mask in expected.masks.items():
        assert torch.equal(found.masks[name], mask), name
    weights = found.model.state_dict()
    for name, values in expected.model.state_dict().items():
        assert isinstance(weights[name], There), f"{name} has left the device"
        torch.testing.assert_close(weights[name].inside, values)


@pytest.mark.parametrize("method", plugins.names("methods"))
def test_every_method_works_on_the_models_device(method: str) -> None:
    expected = pruned(method, "sequence classification", HERE)
    with elsewhere():
        found = pruned(method, "sequence classification", THERE)
    assert_the_same(found, expected)


@pytest.mark.parametrize("head", [head for head in [*HEADS, "language model"] if head != "sequence classification"])
def test_every_head_is_read_on_the_models_device(head: str) -> None:
    expected = pruner_of("surgeon", head, HERE)
    with elsewhere():
        pruner = pruner_of("surgeon", head, THERE)
        for site in expected.calibration.dense:
            found = reach.measured(pruner, site.name, "metric")
            torch.testing.assert_close(found.cpu(), reach.measured(expected, site.name, "metric"))


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("surgeon", {"gradients": False}),
        ("surgeon", {"focus": 0.5}),
        ("kprune", {"predictive": "fisher"}),
        ("kprune", {"one_shot": True}),
    ],
    ids=["no gradients", "focus", "fisher", "one shot"],
)
def test_every_way_to_measure_works_on_the_models_device(method: str, given: dict[str, Any]) -> None:
    expected = pruned(method, "sequence classification", HERE, **given)
    with elsewhere():
        found = pruned(method, "sequence classification", THERE, **given)
    assert_the_same(found, expected)


def test_the_device_that_is_none_refuses_tensors_of_the_cpu() -> None:
    with elsewhere():
        here = torch.ones(3)
        there = here.to(THERE)
        assert there.device == THERE
        assert torch.equal((there + 1).cpu(), here + 1)
        assert torch.equal((there * torch.tensor(2.0)).cpu(), here * 2), "one number may be on the CPU"
        with pytest.raises(RuntimeError, match="tensors on lazy:0"):
            there + here
