"""What is measured once serves every budget, is changed by none, and is found again exactly where it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import reach
import torch
from torch import Tensor

from tiny_models import SETTINGS, WHOLE_LAYERS, labelled, tiny_model
from trimformer import Budget, Pruner, plugins
from trimformer.data.rows import Features
from trimformer.pruning.cache import MeasuredCache
from trimformer.pruning.contract import NarrowsHeads
from trimformer.pruning.result import PruningResult
from trimformer.pruning.turning import by_turned_dimension

SHARES = {"kcm": (0.9, 0.8)}
"""By method, the two budgets where 60 and 40 % are too small."""
OTHER_NUMBERS = {"tolerance": 0.02, "tokens": 5, "epochs": 1, "minibatch": 3, "reconsider": 0.25, "focus": 0.5}
"""Values inside the ranges of options that doubling would leave."""


@pytest.fixture(params=plugins.names("methods"))
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@cache
def rows() -> list[Features]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 15, (12,), generator=generator).tolist()
    plain = [{"input_ids": torch.randint(8, 120, (length,), generator=generator).tolist()} for length in lengths]
    return labelled(plain, "sequence classification")


def tuned(method: str) -> dict[str, Any]:
    """Options that make a method do all it can."""
    names = {field.name for field in fields(plugins.load("methods", method))}
    return SETTINGS.get(method, {}) | ({"tune": True} if "tune" in names else {})


def pruner_of(method: str, **given: Any) -> Pruner:
    options = given.pop("options", tuned(method))
    model = given.pop("model", None) or tiny_model("bert")
    return Pruner(model, given.pop("data", rows()), method=method, calibration_tokens=None, options=options, **given)


def budgets(method: str) -> tuple[Budget, Budget]:
    first, second = SHARES.get(method, (0.6, 0.4))
    return Budget(flops=first), Budget(flops=second)


def assert_same_result(found: PruningResult, expected: PruningResult) -> None:
    assert all(torch.equal(found.masks[name], mask) for name, mask in expected.masks.items())
    weights = found.model.state_dict()
    for name, values in expected.model.state_dict().items():
        assert torch.equal(weights[name], values), name
    for what in ("budget", "kept", "units", "parameters", "curves", "options"):
        assert found.manifest[what] == expected.manifest[what], what


@pytest.mark.parametrize(
    "falling", [pytest.param(True, marks=pytest.mark.slow), False], ids=["larger first", "smaller first"]
)
def test_a_second_budget_is_as_if_it_were_the_first(method: str, falling: bool) -> None:
    first, second = budgets(method) if falling else reversed(budgets(method))
    pruner = pruner_of(method)
    pruner.prune(first)
    assert_same_result(pruner.prune(second), pruner_of(method).prune(second))


def parts(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything inside of what was measured, by where it is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from parts(inner, f"{path}/{key}")
    else:
        yield path, value


@pytest.mark.parametrize("uniform", [False, True])
def test_pruning_changes_nothing_that_was_measured(method: str, uniform: bool) -> None:
    pruner = pruner_of(method)
    before = dict(parts(reach.deep(pruner.measured)))
    if uniform and method in WHOLE_LAYERS:
        pytest.skip("layers that go whole leave the others as large as before")
    for budget in (Budget(flops=0.9, uniform=True),) if uniform else budgets(method):
        pruner.prune(budget)
    after = dict(parts(reach.deep(pruner.measured)))
    assert after.keys() == before.keys()
    for path, value in before.items():
        same = torch.equal(after[path], value) if isinstance(value, Tensor) else after[path] == value
        assert same, path


def other_values(name: str, kind: Any, value: Any) -> list[Any]:
    """Further values of an option: every choice, or another number."""
    if get_args(kind):
        return [choice for choice in get_args(kind) if choice != value]
    if kind is bool:
        return [not value]
    return [OTHER_NUMBERS.get(name, 2 * value if value else 0.5)]


def settings(method: str) -> list[dict[str, Any]]:
    """The defaults, and every option changed alone: all branches of `measure` are open in one of them."""
    kind = plugins.load("methods", method)
    types, given = get_type_hints(kind), SETTINGS.get(method, {})
    return [
        dict(given),
        *(
            {**given, field.name: value}
            for field in fields(kind)
            for value in other_values(field.name, types[field.name], given.get(field.name, field.default))
        ),
    ]


def options_read_by_measure(method: str, options: dict[str, Any]) -> set[str]:
    """By watching the method's attributes while it measures."""
    kind = plugins.load("methods", method)
    names, read, watched = {field.name for field in fields(kind)}, set[str](), [False]

    class Watched(kind):
        def __getattribute__(self, name: str) -> Any:
            if watched[0] and name in names:
                read.add(name)
            return super().__getattribute__(name)

    pruner = pruner_of(method, options=options)
    pruner.method = Watched(**options)
    calibrations = [pruner.calibration]
    if isinstance(pruner.method, NarrowsHeads) and pruner.method.narrows:
        calibrations.append(pruner.calibration.on(by_turned_dimension(pruner.calibration.dense)))
    watched[0] = True
    for calibration in calibrations:
        pruner.method.measure(calibration)
    watched[0] = False
    return read


@cache
def all_read(method: str) -> frozenset[str]:
    return frozenset().union(*(options_read_by_measure(method, options) for options in settings(method)))


def test_measured_by_names_exactly_the_options_that_measure_reads(method: str) -> None:
    assert all_read(method) == set(plugins.load("methods", method).measured_by)


def test_a_measurement_is_found_again_unless_an_option_that_it_reads_changed(method: str, tmp_path: Path) -> None:
    defaults, *changed = settings(method)
    said: list[str] = []
    cache_of = MeasuredCache(tmp_path / "cache", say=said.append)
    if not pruner_of(method, options=defaults, cache=cache_of).measured:
        assert not all_read(method), "nothing is measured, so nothing can be read"
        return
    for options in changed:
        (name,) = (name for name, value in options.items() if defaults.get(name, object()) is not value)
        said.clear()
        _ = pruner_of(method, options=options, cache=cache_of).measured
        assert any("reusing" in text for text in said) == (name not in all_read(method)), (options, said)


@pytest.mark.parametrize("what", ["nothing", "seed", "rows", "labels", "order of words", "weights", "config"])
def test_a_measurement_is_found_again_only_for_the_same_model_rows_and_seed(what: str, tmp_path: Path) -> None:
    said: list[str] = []
    cache_of, method = MeasuredCache(tmp_path / "cache", say=said.append), "mask_tuning"
    _ = pruner_of(method, cache=cache_of).measured
    given: dict[str, Any] = {"seed": 1} if what == "seed" else {}
    other = [{**row, "labels": (row["labels"] + 1) % 3} for row in rows()]
    equal_lengths = [{"input_ids": [*row["input_ids"][::-1]], "labels": row["labels"]} for row in rows()]
    given |= {"rows": {"data": rows()[1:]}, "labels": {"data": other}, "order of words": {"data": equal_lengths}}.get(
        what, {}
    )
    model = tiny_model("bert")
    with torch.no_grad():
        if what == "weights":
            model.classifier.bias[0] += 1e-3
    if what == "config":
        model.config.layer_norm_eps = 1e-3
    said.clear()
    _ = pruner_of(method, model=model, cache=cache_of, **given).measured
    assert any("reusing" in text for text in said) == (what == "nothing"), said
