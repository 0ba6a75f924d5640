"""What every method promises: the budget holds, nothing but the seed matters, and the user's model stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from conftest import asked
from tiny_models import (
    FAMILIES,
    FURTHER_HEADS,
    HEADS,
    OTHER_UNITS,
    SETTINGS,
    SHARES,
    UNITS_KEPT,
    WHOLE_LAYERS,
    inputs,
    labelled,
    outputs,
    pairs,
    parameters_by_name,
    random_masks,
    tiny_model,
)
from trimformer import plugins
from trimformer.data.batches import Workload, length_sorted_indices, pad
from trimformer.data.labels import pad_labels
from trimformer.data.rows import Batch, Features
from trimformer.errors import InvalidOption, LabelError, NumericalError, UnreachableTarget
from trimformer.model.modeling_trimformer import _check_caches
from trimformer.model.query_heads import by_dimension
from trimformer.model.structure import read_structure
from trimformer.model.surgery import cut, pruning_config
from trimformer.pruning.budget import Budget, HasUnit, MeasuredCost, total_cost
from trimformer.pruning.once import prune
from trimformer.pruning.preflight import check_weights
from trimformer.pruning.pruner import Pruner
from trimformer.pruning.result import PruningResult

BUDGETS = [index / 20 for index in range(1, 20, 2)]
METHODS = plugins.names("methods")
MAIN = ("kprune", "surgeon")
CLASSIFIER = "sequence classification"
OF_WHOLE_MODELS = (MeasuredCost, HasUnit)
FORMULAS = [name for name, cost in plugins.provided("costs").items() if not isinstance(cost, OF_WHOLE_MODELS)]
OVERFLOWING_TOKEN = 7
WEIGHT_TOLERANCE = 2e-3
"""Refits differ by rounding: inputs of other batches round differently, and sums are taken in float32 by batch."""


def needs_labels(method: str) -> bool:
    return bool(plugins.load("methods", method).needs_labels)


def case(*values: str, slow: bool) -> Any:
    """A case of a matrix that is run in full by `pytest -m slow` only."""
    return pytest.param(*values, marks=pytest.mark.slow if slow else [])


def by_method_and_head(heads: Iterable[str]) -> list[Any]:
    """Every method with a classifier, the two that the product stands on with every head; all others are slow."""
    return [
        case(method, head, slow=head != CLASSIFIER and method not in MAIN)
        for method in METHODS
        for head in heads
        if head != "encoder" or not needs_labels(method)  # without a task head there is nothing to label
    ]


def by_method_and_model() -> list[Any]:
    """Every method with a classifier of every family, the others of `pairs()` with one method in turn."""
    found = []
    for place, pair in enumerate(pairs()):
        architecture, head = pair.values
        able = [method for method in METHODS if head != "encoder" or not needs_labels(method)]
        turn = able[place % len(able)]
        for method in able:
            chosen = method == turn or (architecture in FAMILIES and head == CLASSIFIER)
            found.append(case(method, architecture, head, slow=bool(pair.marks) or not chosen))
    return asked(found)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def rows() -> list[Features]:
    """Rows of 3 to 20 tokens, more tokens together than any site has features."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 21, (30,), generator=generator).tolist()
    unlabelled = [{"input_ids": torch.randint(8, 120, (length,), generator=generator).tolist()} for length in lengths]
    return labelled(unlabelled, "sequence classification")


def batches(rows: list[Features], max_rows: int) -> list[Batch]:
    chosen = [[rows[i] for i in indices] for indices in length_sorted_indices(rows, max_rows=max_rows)]
    return [pad(part, None, "cpu") | pad_labels(part, "cpu") for part in chosen]


def run(model: PreTrainedModel, data: Any, method: str, flops: float | None = None, **options: Any) -> PruningResult:
    settings = SETTINGS.get(method, {}) | options
    budget = Budget(flops=SHARES.get(method, 0.5) if flops is None else flops)
    return prune(model, data, budget=budget, method=method, calibration_tokens=None, options=settings)


def tuned(method: str) -> dict[str, bool]:
    """The option that makes a method look at data, where it has it."""
    return {"tune": True} if "tune" in {field.name for field in fields(plugins.load("methods", method))} else {}


@pytest.mark.parametrize("cost", FORMULAS)
def test_budget_is_used_up_but_never_exceeded(method: str, cost: str, rows: list[Features]) -> None:
    """What is left of the budget is less than the most expensive unit that was removed, or layer where these go whole.

    A method stops at the first removal that meets the budget, or fills up what a removal left: in both cases giving
    back one unit of the dearest removed kind would exceed the budget. Nothing tighter holds for all methods, as one
    that removes along an order does not go back for a cheaper unit.
    """
    structure = read_structure(tiny_model("bert"))
    mean_length = sum(len(row["input_ids"]) for row in rows[:12]) / 12
    tables = plugins.load("costs", cost).prices(structure, Workload(mean_length)).tables
    total = total_cost(structure.full_masks(), tables)
    untouchable = sum(float(tables[site.name][-1]) for site in structure if site.kind == UNITS_KEPT.get(method))
    pruner = Pruner(structure.model, batches(rows[:12], 12), method=method, options=SETTINGS.get(method))
    for share in BUDGETS:
        budget = Budget(**{cost: share})
        if share * total < untouchable:
            with pytest.raises(UnreachableTarget, match="was asked for"):
                pruner.prune(budget)
            continue
        result = pruner.prune(budget)
        units = structure
        if any(len(result.masks[site.name]) != site.units for site in structure):
            units = read_structure(structure.model, by_dimension(structure.architecture))
            tables = plugins.load("costs", cost).prices(units, Workload(mean_length)).tables
        kept = total_cost(result.masks, tables)
        removed = [
            float(tables[site.name][1]) * max(1, site.heads * (site.head_width > 0), site.head_width)
            for site in units
            if not result.masks[site.name].all()
        ]
        if method in WHOLE_LAYERS:
            removed = [sum(float(tables[site.name][-1]) for site in structure.of_block(0, 0))]
        assert kept <= share * total * (1 + 1e-9), share
        assert share * total - kept < max(removed), share
        assert result.manifest["budget"] == {
            "cost": cost,
            "asked": share,
            "reached": pytest.approx(kept / total),
            "uniform": False,
        }
        small = read_structure(result.model) if units is structure else read_structure(result.model, units.architecture)
        assert {site.name: site.units for site in small} == {
            name: int(mask.sum()) for name, mask in result.masks.items()
        }, share


def test_same_seed_gives_the_same_model(method: str, rows: list[Features]) -> None:
    first, second = (run(tiny_model("bert"), rows, method, **tuned(method)) for _ in range(2))
    assert_same_masks(first, second)
    assert first.manifest["calibration"] == second.manifest["calibration"]
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


@pytest.mark.parametrize(("method", "head"), by_method_and_head([*HEADS, *FURTHER_HEADS]))
def test_batch_size_does_not_matter(method: str, head: str, rows: list[Features]) -> None:
    rows = labelled(rows[:12], head)
    alone, together = (
        run(tiny_model("bert", head), batches(rows, size), method, **tuned(method)) for size in (1, len(rows))
    )
    assert_same_masks(alone, together)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(together.model.state_dict()[name], value, atol=WEIGHT_TOLERANCE, rtol=0)


@pytest.mark.parametrize(("method", "architecture", "head"), by_method_and_model())
def test_every_architecture_and_head_is_pruned(method: str, architecture: str, head: str, rows: list[Features]) -> None:
    model, rows = tiny_model(architecture, head), labelled(rows[:12], head)
    division = {"lambda_": 0.6} if method == "dual_cp" and (architecture, "neuron") in OTHER_UNITS else {}
    result = run(model, batches(rows, 12), method, **tuned(method), **division)
    found = outputs(result.model, inputs(model))
    assert torch.isfinite(found).all()
    only_layer = method in WHOLE_LAYERS and {site.block for site in read_structure(model)} == {0}
    kept = sum(int(mask.sum()) for mask in result.masks.values())
    assert (kept > 0) is not only_layer
    assert kept < sum(mask.numel() for mask in result.masks.values())


def test_nothing_is_removed_at_the_whole_budget(method: str, rows: list[Features]) -> None:
    model = tiny_model("bert")
    result = run(model, rows, method, flops=1.0, **tuned(method))
    assert all(bool(mask.all()) for mask in result.masks.values())
    assert not pruning_config(read_structure(result.model)).kept
    torch.testing.assert_close(
        outputs(result.model, inputs(model)), outputs(model, inputs(model)), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_a_pruned_model_is_pruned_further(method: str, architecture: str, rows: list[Features]) -> None:
    structure = read_structure(tiny_model(architecture))
    masks = random_masks(structure, keep=0.8)
    masks = {site.name: masks[site.name] & ((site.kind, site.block) != ("head", 0)) for site in structure}
    small = cut(structure, masks).model
    before = pruning_config(read_structure(small)).kept
    result = run(small, rows, method, **tuned(method))
    assert result.manifest["already_pruned"] is True
    assert result.manifest["budget"]["reached"] <= SHARES.get(method, 0.5)
    for site, indices in pruning_config(read_structure(result.model)).kept.items():
        assert set(indices) <= set(before.get(site, indices))
    assert torch.isfinite(outputs(result.model, inputs(small))).all()


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(method: str, training: bool, rows: list[Features]) -> None:
    model = mixed_up(tiny_model("bert"), training=training)
    seen = state(model)
    result = run(model, rows, method, **tuned(method))
    assert_same_state(state(model), seen)
    pruned = {name: parameter.requires_grad for name, parameter in result.model.named_parameters()}
    assert pruned == {name: seen["requires_grad"][name] for name in pruned}
    before = {name: module.training for name, module in model.named_modules()}
    assert {name: module.training for name, module in result.model.named_modules()}.items() <= before.items()
    assert not hooks(result.model)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was_when_a_method_fails(method: str, training: bool, rows: list[Features]) -> None:
    if not (tuned(method) or method_needs_data(method)):
        pytest.skip(f"{method} does not look at data")
    model = overflowing(mixed_up(tiny_model("bert"), training=training))
    check_weights(read_structure(model))
    seen = state(model)
    bad = [*rows[:5], {"input_ids": [5, OVERFLOWING_TOKEN, 6], "labels": 0}, *rows[5:]]
    with pytest.raises(NumericalError, match=r"at site encoder\.layer\.\d+\.(attention|ffn)"):
        run(model, bad, method, **tuned(method))
    assert_same_state(state(model), seen)


def test_nan_weights_are_refused_before_any_work(method: str, rows: list[Features]) -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"site encoder\.layer\.1\.ffn"):
        run(model, rows, method)


def test_labels_are_given_to_those_only_who_need_them(method: str, rows: list[Features]) -> None:
    unlabelled = [{"input_ids": row["input_ids"]} for row in rows]
    other = [{**row, "labels": (row["labels"] + 1) % 3} for row in rows]
    model = tiny_model("bert")
    assert (Pruner(model, rows, method=method, calibration_tokens=None).calibration.labels is not None) == needs_labels(
        method
    )
    if needs_labels(method):
        free = ", ".join(name for name in plugins.names("methods") if not needs_labels(name))
        with pytest.raises(LabelError, match=f"{method} needs labels, but row 1 is unlabelled.*need none: {free}$"):
            run(model, unlabelled, method)
        return
    results = [run(model, data, method) for data in (unlabelled, rows, other)]
    for result in results[1:]:
        assert_same_masks(results[0], result)


def test_options_are_checked(method: str, rows: list[Features]) -> None:
    with pytest.raises(InvalidOption, match=f"unknown option of {method} 'no_such'"):
        run(tiny_model("bert"), rows, method, no_such=1)
    for field in fields(plugins.load("methods", method)):
        assert field.kw_only
        with pytest.raises(InvalidOption, match=f"`{field.name}='wrong'` must be"):
            run(tiny_model("bert"), rows, method, **{field.name: "wrong"})


def test_it_says_what_it_is(method: str) -> None:
    described = plugins.descriptions("methods")[method]
    assert described
    assert described.lower().replace("-", "").replace(" ", "").startswith(method.replace("_", ""))


def mixed_up(model: PreTrainedModel, *, training: bool) -> PreTrainedModel:
    """Some modules in another mode and some parameters frozen: what must be found again afterwards."""
    model.train(training)
    model.base_model.embeddings.train(not training)
    model.bert.encoder.layer[0].output.dense.weight.requires_grad_(requires_grad=False)
    model.bert.embeddings.requires_grad_(requires_grad=False)
    return model


def overflowing(model: PreTrainedModel) -> PreTrainedModel:
    """Finite weights that give infinite activations on one token."""
    with torch.no_grad():
        model.get_input_embeddings().weight[OVERFLOWING_TOKEN] = torch.finfo(torch.float32).max
    return model


def method_needs_data(method: str) -> bool:
    """Methods without tuning that measure on data fail on NaN all the same."""
    return method not in ("magnitude", "random")


def state(model: PreTrainedModel) -> dict[str, Any]:
    """Everything about a model that a method could leave changed."""
    return {
        "weights": parameters_by_name(model),
        "identity": {name: id(value) for name, value in model.named_parameters()},
        "requires_grad": {name: value.requires_grad for name, value in model.named_parameters()},
        "grad": {name: value.grad for name, value in model.named_parameters()},
        "modules": {name: id(module) for name, module in model.named_modules()},
        "training": [module.training for module in model.modules()],
        "hooks": hooks(model),
        "config": copy.deepcopy(model.config.to_dict()),
        "grad_enabled": torch.is_grad_enabled(),
        "random": torch.get_rng_state(),
    }


def hooks(model: nn.Module) -> list[Callable[..., Any]]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found = [hook for module in model.modules() for kind in kinds for hook in getattr(module, kind).values()]
    return [hook for hook in found if hook is not _check_caches]  # a pruned model's own


def assert_same_state(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for what, value in expected.items():
        if isinstance(value, Tensor):
            assert torch.equal(found[what], value), what
        elif what == "weights":
            assert all(bits_equal(found[what][name], tensor) for name, tensor in value.items())
        else:
            assert found[what] == value, what
    assert expected["hooks"] == []


def bits_equal(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and bool((first == second).all())


def assert_same_masks(first: PruningResult, second: PruningResult) -> None:
    assert first.masks.keys() == second.masks.keys()
    for name, mask in first.masks.items():
        assert torch.equal(mask, second.masks[name]), name
