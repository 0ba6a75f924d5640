"""Ctrl-C at any line of Python leaves the user's model as it was."""

from __future__ import annotations

import contextlib
import random
import sys
from types import FrameType
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from typing_extensions import Self

import trimformer
from tiny_models import SETTINGS, labelled, main_head, tiny_model
from trimformer import Budget, Pruner, Sizes, plugins
from trimformer.model.unchanged import unchanged

ROOT = trimformer.__path__[0]
PARTS = (ROOT, "torch/nn/modules/module.py", "contextlib.py", "torch/utils/hooks.py")
"""Files in which lines are counted: the package, and what hooks and contexts are made of."""
ROWS = [{"input_ids": [2, *range(5, 5 + n), 3], "attention_mask": [1] * (n + 2)} for n in (3, 9, 4, 12)]
METHODS = ["surgeon", "kprune", "mask_tuning", "dual_cp"]
SHARE = 8
"""Lines to interrupt at, in the default run; all of `MANY` in the slow one."""
MANY = 300
TRAINED: dict[str, dict[str, Any]] = {"surgeon": {"epochs": 1}}


class Interruption:
    """Raises KeyboardInterrupt at a line, counted from the start; counts all where there is none."""

    def __init__(self, line: int | None) -> None:
        self.line = line
        self.count = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not any(part in frame.f_code.co_filename for part in PARTS):
            return None
        if event == "line":
            self.count += 1
            if self.count == self.line:
                raise KeyboardInterrupt
        return self

    def __enter__(self) -> Self:
        sys.settrace(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


class InterruptionIn:
    """Raises KeyboardInterrupt where a function of the package is entered for the second time."""

    def __init__(self, function: str) -> None:
        self.function = function
        self.entered = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        self.entered += ROOT in frame.f_code.co_filename and frame.f_code.co_name == self.function
        if self.entered == 2:
            self.entered += 1
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        sys.settrace(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


@pytest.mark.parametrize(
    ("family", "budget", "sizes", "function"),
    [("bert", Budget(flops=0.5), None, "_turn_values"), ("llama", None, Sizes(query_heads=4), "_widened")],
)
def test_a_pruner_interrupted_while_it_ordered_units_begins_anew(
    family: str, budget: Budget | None, sizes: Sizes | None, function: str
) -> None:
    def pruner() -> Pruner:
        model = tiny_model(family, main_head(family))
        return Pruner(model, ROWS, calibration_tokens=None, options={"epochs": 0}, progress=False)

    again = pruner()
    with pytest.raises(KeyboardInterrupt), InterruptionIn(function):
        again.prune(budget, sizes)
    found, expected = (each.prune(budget, sizes).model.state_dict() for each in (again, pruner()))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


def prune(model: PreTrainedModel, method: str) -> None:
    rows = labelled(ROWS, main_head("bert")) if plugins.load("methods", method).needs_labels else ROWS
    settings = SETTINGS.get(method, {}) | TRAINED.get(method, {})
    Pruner(model, rows, method=method, calibration_tokens=None, options=settings, progress=False).prune(
        Budget(flops=0.5)
    )


def picture(model: PreTrainedModel) -> dict[str, Any]:
    """Everything of a model that a run may change for a time, in a form that can be compared."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs")
    return {
        "hooks": {name: [len(getattr(module, table)) for table in tables] for name, module in model.named_modules()},
        "forward": [name for name, module in model.named_modules() if "forward" in vars(module)],
        "training": {name: module.training for name, module in model.named_modules()},
        "learning": {name: (weight.requires_grad, weight.grad) for name, weight in model.named_parameters()},
        "config": model.config.to_dict(),
    }


def lines_of(method: str) -> int:
    model = tiny_model("bert", main_head("bert"))
    prune(model, method)  # what is imported and cached at first is not counted
    with Interruption(None) as counted:
        prune(model, method)
    return counted.count


def check(method: str, lines: list[int]) -> None:
    model = tiny_model("bert", main_head("bert")).train()
    next(model.parameters()).requires_grad = False
    weights, before = {name: values.clone() for name, values in model.state_dict().items()}, picture(model)
    for line in lines:
        with pytest.raises(KeyboardInterrupt), Interruption(line):
            prune(model, method)
        assert picture(model) == before, f"after an interruption at line {line}"
    for name, values in model.state_dict().items():
        assert torch.equal(values, weights[name]), name


def test_whatever_is_changed_for_a_time_is_undone() -> None:
    """All at once, without any of the contexts that undo a change where it is made."""
    model = tiny_model("bert", main_head("bert")).train()
    before, layer, weight = picture(model), model.bert.encoder.layer[0], next(model.parameters())
    with contextlib.suppress(KeyboardInterrupt), unchanged(model):
        model.eval()
        layer.register_forward_hook(lambda *_: None)
        layer.register_forward_pre_hook(lambda *_: None)
        layer.forward = lambda *_: None
        layer.output = torch.nn.Identity()
        weight.requires_grad_(requires_grad=False).grad = torch.ones_like(weight)
        model.config.hidden_size = 5
        model.config.new = 1
        assert picture(model) != before
        raise KeyboardInterrupt
    assert picture(model) == before


@pytest.mark.parametrize("method", METHODS[:1])
def test_some_interruptions(method: str) -> None:
    total = lines_of(method)
    check(method, random.Random(0).sample(range(1, total), SHARE))  # noqa: S311  # lines


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_many_interruptions(method: str) -> None:
    total = lines_of(method)
    check(method, random.Random(1).sample(range(1, total), MANY))  # noqa: S311  # lines
