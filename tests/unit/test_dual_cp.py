"""Dual CP: the split of the budget, what it says where there is none, and that duplicates go first."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from tiny_models import inputs, outputs, tiny_model
from trimformer import plugins
from trimformer.data.batches import Workload
from trimformer.data.rows import Batch
from trimformer.errors import InvalidOption
from trimformer.methods.dual_cp import drawn_tokens
from trimformer.model.structure import read_structure
from trimformer.pruning.budget import Budget
from trimformer.pruning.pruner import Pruner
from trimformer.pruning.result import PruningResult

LENGTH = 9.0
RATIOS = [0.2, 0.5, 1.0, 2.0, 5.0, 20.0]

Prune = Callable[..., PruningResult]


@pytest.fixture
def batches() -> list[Batch]:
    return [inputs(tiny_model("bert"), lengths=(12, 9, 6), seed=seed) for seed in range(4)]


@pytest.fixture
def dual_cp(batches: list[Batch]) -> Prune:
    def run(model: PreTrainedModel, share: float, **options: object) -> PruningResult:
        pruner = Pruner(model, batches, method="dual_cp", sequence_length=LENGTH, options=options)
        return pruner.prune(Budget(flops=share))

    return run


def wide_model() -> PreTrainedModel:
    """Neurons cost about twice as much as heads, as in most real models."""
    return tiny_model("bert", "encoder", intermediate_size=128)


def removed_by_kind(model: PreTrainedModel, result: PruningResult) -> tuple[dict[str, float], dict[str, float]]:
    """What is removed of heads and neurons, and what one of each costs."""
    structure = read_structure(model)
    tables = plugins.load("costs", "flops").prices(structure, Workload(LENGTH)).tables
    removed = dict.fromkeys(("head", "neuron"), 0.0)
    for site in structure:
        removed[site.kind] += float(tables[site.name][-1] - tables[site.name][int(result.masks[site.name].sum())])
    return removed, {site.kind: float(tables[site.name][1]) for site in structure}


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("share", [0.9, 0.7])
def test_heads_and_neurons_lose_their_parts_to_within_a_unit(dual_cp: Prune, share: float, ratio: float) -> None:
    model = wide_model()
    removed, unit = removed_by_kind(model, dual_cp(model, share, lambda_=ratio))
    total = sum(float(table[-1]) for table in flops(model).values())
    from_heads = (1 - share) * total / (1 + ratio)
    assert 0 <= removed["head"] - from_heads < unit["head"]
    assert -unit["head"] < removed["neuron"] - ratio * from_heads < unit["neuron"]
    assert 0 <= sum(removed.values()) - (1 - share) * total < max(unit.values())


def flops(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return plugins.load("costs", "flops").prices(read_structure(model), Workload(LENGTH)).tables


@pytest.mark.parametrize("ratio", [0.01, 50.0])
def test_an_infeasible_split_names_what_is_feasible(dual_cp: Prune, ratio: float) -> None:
    model = wide_model()
    with pytest.raises(InvalidOption, match=f"`lambda_={ratio:g}` takes more from") as error:
        dual_cp(model, 0.2, lambda_=ratio)
    found = re.search(r"`lambda_` must be from ([\d.]+) to ([\d.]+); .* keep at least ([\d.]+)$", str(error.value))
    assert found, error.value
    least, most, share = map(float, found.groups())
    for feasible in (least, most):
        dual_cp(model, 0.2, lambda_=feasible)
    dual_cp(model, share, lambda_=ratio)
    for infeasible in (0.99 * least, 1.01 * most):
        with pytest.raises(InvalidOption):
            dual_cp(model, 0.2, lambda_=infeasible)
    with pytest.raises(InvalidOption):
        dual_cp(model, share - 0.01, lambda_=ratio)


def test_a_split_too_mild_on_neurons_says_so_at_a_large_budget(dual_cp: Prune) -> None:
    with pytest.raises(InvalidOption, match=r"takes more from heads .* `lambda_` must be at least [\d.]+; "):
        dual_cp(wide_model(), 0.6, lambda_=0.0)


def with_twins(model: PreTrainedModel) -> PreTrainedModel:
    """Neuron 3 of block 0 becomes minus twice neuron 5; head 2 of block 1 becomes head 0."""
    twin = copy.deepcopy(model)
    first, second = twin.base_model.encoder.layer
    width = twin.config.hidden_size // twin.config.num_attention_heads
    with torch.no_grad():
        first.intermediate.dense.weight[3] = first.intermediate.dense.weight[5]
        first.intermediate.dense.bias[3] = first.intermediate.dense.bias[5]
        for name in ("query", "key", "value"):
            projection = getattr(second.attention.self, name)
            projection.weight[2 * width : 3 * width] = projection.weight[:width]
            projection.bias[2 * width : 3 * width] = projection.bias[:width]
    return twin


def test_duplicates_go_first(dual_cp: Prune) -> None:
    model = with_twins(wide_model())
    head = removed_by_kind(model, dual_cp(model, 1.0))[1]["head"]
    total = sum(float(table[-1]) for table in flops(model).values())
    result = dual_cp(model, 1 - 1.001 * head / total, lambda_=0.001)
    gone = {name: (~mask).nonzero()[:, 0].tolist() for name, mask in result.masks.items() if not mask.all()}
    assert set(gone) <= {"encoder.layer.1.attention", "encoder.layer.0.ffn"}
    assert gone["encoder.layer.1.attention"] in ([0], [2])
    assert gone.get("encoder.layer.0.ffn", [3]) in ([3], [5])


def test_activity_is_the_mean_absolute_activation(batches: list[Batch]) -> None:
    model = wide_model()
    measured = Pruner(model, batches, method="dual_cp", options={"tokens": 1000}).measured
    seen: list[torch.Tensor] = []
    handle = model.encoder.layer[0].output.dense.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach())
    )
    for batch in batches:
        outputs(model, batch)
    handle.remove()
    real = torch.cat([hidden[batch["attention_mask"].bool()] for hidden, batch in zip(seen, batches, strict=True)])
    torch.testing.assert_close(measured["encoder.layer.0.ffn"].activity, real.abs().mean(0).double())


@pytest.mark.parametrize("centroid", ["most_active", "random", "worst"])
def test_what_stays_of_a_cluster_changes_no_counts(dual_cp: Prune, centroid: str) -> None:
    model = wide_model()
    usual, other = dual_cp(model, 0.5, lambda_=2.0), dual_cp(model, 0.5, lambda_=2.0, centroid=centroid)
    assert {name: int(mask.sum()) for name, mask in usual.masks.items()} == {
        name: int(mask.sum()) for name, mask in other.masks.items()
    }
    same = all(torch.equal(mask, other.masks[name]) for name, mask in usual.masks.items())
    assert same == (centroid == "most_active")
    again = dual_cp(model, 0.5, lambda_=2.0, centroid=centroid)
    assert all(torch.equal(mask, again.masks[name]) for name, mask in other.masks.items())


def test_counts_are_rounded_where_that_is_asked_for(batches: list[Batch]) -> None:
    pruner = Pruner(wide_model(), batches, method="dual_cp", options={"lambda_": 1.0})
    counts = [int(mask.sum()) for mask in pruner.prune(Budget(params=0.5, round_to=16)).masks.values()]
    assert not any(count % 16 for count in counts if count > 4)


@pytest.mark.parametrize(("tokens", "wanted", "drawn"), [(100, 20, 20), (10, 20, 10), (20, 20, 20)])
def test_tokens_are_drawn_once_by_seed(tokens: int, wanted: int, drawn: int) -> None:
    first, again, other = (drawn_tokens(tokens, wanted, seed) for seed in (0, 0, 1))
    assert first.shape == (tokens,)
    assert int(first.sum()) == drawn
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (drawn == tokens)


def test_options_are_checked(dual_cp: Prune) -> None:
    for options in ({"tokens": 1}, {"lambda_": -1.0}, {"lambda_": float("nan")}, {"ridge": -1.0}):
        with pytest.raises(InvalidOption, match=f"{next(iter(options))}="):
            dual_cp(wide_model(), 0.5, **options)
    with pytest.raises(InvalidOption, match="`centroid='first'` must be one of most_active, random, worst"):
        dual_cp(wide_model(), 0.5, centroid="first")
