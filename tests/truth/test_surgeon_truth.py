"""Surgeon's metric, moments and removal curves against what they stand for, token by token and by solving anew."""

from __future__ import annotations

import copy
from functools import cache
from itertools import combinations, pairwise

import plain
import pytest
import reach
import torch
from torch import Tensor
from trained import classifier, counting_rows, of_few_lengths, regressor
from transformers import PreTrainedModel

from trimformer import Budget, Pruner
from trimformer.data.rows import Batch
from trimformer.model.sites import Site
from trimformer.model.structure import Structure

MODELS = {"classifier": classifier, "regressor": regressor}
DAMPING, CURVE_RIDGE = 0.3, 1e-4
DEAD = {
    "output of the attention": "bert.encoder.layer.1.attention.output.dense",
    "values": "bert.encoder.layer.1.attention.self.value",
    "intermediate": "bert.encoder.layer.1.intermediate.dense",
}
TIES = 1e-7
"""Relative difference of two costs that rounding may put into another order."""


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return MODELS[request.param]()


@cache
def data() -> list[Batch]:
    return of_few_lengths(counting_rows, 10, seed=3)


def gradients_at(structure: Structure, groups: list[Batch], site: Site) -> Tensor:
    """By token `(tokens, width)`, the gradient at the site's output of a loss that has the exact Fisher information."""
    found: list[Tensor] = []

    def keep(_: object, __: object, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        found.append(leaf)
        return leaf

    handle = structure.consumer(site).register_forward_hook(keep)
    for group in groups:
        plain.two_classes_root(structure.model(**group).logits).backward()
    handle.remove()
    return torch.cat([leaf.grad.flatten(0, 1) for leaf in found])


def damped(matrix: Tensor, strength: float) -> Tensor:
    return matrix + strength * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


def metric_of(structure: Structure, groups: list[Batch], site: Site) -> Tensor:
    """`M = 1/N Σ_n Σ_{t∈n} g_t g_tᵀ`."""
    gradients = gradients_at(structure, groups, site)
    return gradients.T @ gradients / plain.count(groups)


def gram_of(structure: Structure, groups: list[Batch], site: Site, *, intercept: bool) -> Tensor:
    """`G`: the covariance of what the consumer reads, or without an intercept the mean of `h hᵀ`."""
    inputs, _, _ = plain.tokens_at(structure, groups, site)
    centred = inputs - inputs.mean(0) if intercept else inputs
    return centred.T @ centred / len(inputs)


class Removal:
    """`½ tr(ΔWᵀ G ΔW M)` of the best output projection that reads some units only, found by solving for it anew."""

    def __init__(self, gram: Tensor, metric: Tensor, weight: Tensor, units: int) -> None:
        self.gram, self.metric, self.weight, self.units = gram, metric, weight, units
        self.features = torch.arange(len(gram)).reshape(units, -1)

    def cost(self, removed: tuple[int, ...]) -> float:
        left = self.features[[unit for unit in range(self.units) if unit not in removed]].flatten()
        best = torch.zeros_like(self.weight)
        best[left] = torch.linalg.solve(self.gram[left][:, left], self.gram[left] @ self.weight)
        change = best - self.weight
        return 0.5 * float(torch.trace(change.T @ self.gram @ change @ self.metric))

    def steps(self, order: list[int]) -> list[float]:
        """What each removal of an order adds."""
        totals = [self.cost(tuple(order[:count])) for count in range(len(order) + 1)]
        return [after - before for before, after in pairwise(totals)]

    def is_greedy(self, order: list[int]) -> bool:
        """Whether each removal is the cheapest that is left."""
        for count, unit in enumerate(order):
            gone = tuple(order[:count])
            left = [other for other in range(self.units) if other not in gone]
            cheapest = min(self.cost((*gone, other)) for other in left)
            if self.cost((*gone, unit)) > cheapest * (1 + TIES) + 1e-15:
                return False
        return True


def pooled(steps: list[float]) -> list[float]:
    """Made non-decreasing by pooling adjacent violators: neighbours that fall share their mean."""
    blocks: list[tuple[float, int]] = []
    for step in steps:
        blocks.append((step, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (first, many), (second, few) = blocks[-2:]
            blocks[-2:] = [((first * many + second * few) / (many + few), many + few)]
    return [mean for mean, count in blocks for _ in range(count)]


def removal_of(structure: Structure, site: Site, *, gradients: bool = True, intercept: bool = True) -> Removal:
    groups = plain.without_padding(data())
    metric = metric_of(structure, groups, site) if gradients else torch.eye(site.width, dtype=torch.float64)
    gram = damped(gram_of(structure, groups, site, intercept=intercept), CURVE_RIDGE)
    return Removal(gram, damped(metric, DAMPING), structure.consumer_weight(site), site.units)


def test_the_metric_is_that_of_each_tokens_gradient(model: PreTrainedModel) -> None:
    pruner, structure, groups = Pruner(model, data()), plain.double(model), plain.without_padding(data())
    for site in structure:
        expected = metric_of(structure, groups, site)
        found = reach.measured(pruner, site.name, "metric")
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        energy = gradients_at(structure, groups, site).square().sum(1)
        found = reach.measured(pruner, site.name, "energy").double()
        torch.testing.assert_close(found, energy, rtol=1e-3, atol=1e-4 * float(energy.max()))


@pytest.mark.parametrize("gradients", [True, False], ids=["metric", "no gradients"])
@pytest.mark.parametrize("intercept", [True, False], ids=["covariance", "moment"])
def test_curves_are_greedy_and_cost_what_solving_anew_costs(
    model: PreTrainedModel, gradients: bool, intercept: bool
) -> None:
    pruner = Pruner(model, data(), options={"gradients": gradients, "intercept": intercept})
    structure = plain.double(model)
    for site in structure.sites[1:3]:
        removal = removal_of(structure, site, gradients=gradients, intercept=intercept)
        order = reach.measured(pruner, site.name, "order").tolist()
        assert sorted(order) == list(range(site.units))
        assert removal.is_greedy(order if site.kind == "head" else order[:6]), site.name
        found = reach.measured(pruner, site.name, "cost").tolist()
        assert found == pytest.approx(pooled(removal.steps(order)), rel=5e-3, abs=1e-6 * sum(found))


def test_the_first_head_to_go_is_the_best_of_all_and_more_are_among_the_better_half(model: PreTrainedModel) -> None:
    """All subsets of the heads of a site: no single head is cheaper to remove, and most larger sets are dearer."""
    pruner, structure = Pruner(model, data()), plain.double(model)
    for site in structure:
        if site.kind == "head":
            removal, order = removal_of(structure, site), reach.measured(pruner, site.name, "order").tolist()
            for count in range(1, site.units + 1):
                every = sorted(removal.cost(subset) for subset in combinations(range(site.units), count))
                chosen = removal.cost(tuple(order[:count]))
                assert chosen <= (every[0] if count == 1 else every[len(every) // 2]) * (1 + TIES)


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_the_cheapest_per_saved_operation_go_first(model: PreTrainedModel, share: float) -> None:
    """What stays though it is cheaper than something that went costs together less than one unit: it filled up room."""
    pruner = Pruner(model, data(), options={"tune": False, "narrow": False})
    masks, structure = pruner.prune(Budget(flops=share)).masks, plain.double(model)
    length = plain.mean_length(plain.without_padding(data()))
    went, stayed = [], []
    for site in structure:
        order, cost = (reach.measured(pruner, site.name, name) for name in ("order", "cost"))
        unit, gone = plain.flops(site, site.width, length), int((~masks[site.name]).sum())
        assert set(order[:gone].tolist()) == set((~masks[site.name]).nonzero()[:, 0].tolist())
        priced = [(price, unit) for price in (cost / unit).tolist()]
        went, stayed = went + priced[:gone], stayed + priced[gone:]
    dearest, freed = max(went)
    assert sum(unit for price, unit in stayed if price < dearest * (1 - TIES)) < freed
    assert len({unit for _, unit in went}) == 2, "heads and neurons"


@pytest.mark.parametrize("reconsider", [0.5, 1.0])
def test_choosing_anew_changes_nothing_where_the_student_is_still_the_dense_model(
    model: PreTrainedModel, reconsider: float
) -> None:
    """At the first sublayer nothing was cut yet: what the student's statistics say is what the dense model's say."""
    first, *_ = (site.name for site in plain.double(model))
    results = [
        Pruner(model, data(), options={"reconsider": share, "ridge": CURVE_RIDGE}).prune(Budget(flops=0.3))
        for share in (0.0, reconsider)
    ]
    before, after = (result.masks[first] for result in results)
    assert bool((~before).any())
    assert bool(before.any())
    assert torch.equal(before, after)


def test_at_every_later_site_what_goes_anew_is_cheapest_on_the_students_own_statistics(model: PreTrainedModel) -> None:
    """With `reconsider=1` and nothing aligned: the student so far, run plainly, gives the same greedy choice."""
    options = {"reconsider": 1.0, "align": False, "ridge": 0.0, "narrow": False}
    pruner = Pruner(model, data(), options=options)
    result = pruner.prune(Budget(flops=0.5))
    dense, student, groups = plain.double(model), plain.double(model), plain.without_padding(data())
    factors = plain.ones(dense)
    for site in dense:
        plain.refit(dense, student, factors, groups, site, intercept=True)
        with plain.scaled(student, {name: f for name, f in factors.items() if name != site.name}):
            gram = damped(gram_of(student, groups, site, intercept=True), CURVE_RIDGE)
        metric = damped(metric_of(dense, groups, site), DAMPING)
        removal = Removal(gram, metric, student.consumer_weight(site), site.units)
        gone = (~result.masks[site.name]).nonzero()[:, 0].tolist()
        assert sorted(greedily(removal, len(gone))) == gone, site.name
        factors[site.name] = result.masks[site.name].double()
        plain.refit(dense, student, factors, groups, site, intercept=True)
    with plain.scaled(student, factors), torch.no_grad():
        expected, found = (
            torch.cat([each(**group).logits.double() for group in groups]) for each in (student.model, result.model)
        )
    torch.testing.assert_close(found, expected, atol=1e-2 * float(expected.std()), rtol=0)


def greedily(removal: Removal, count: int) -> list[int]:
    gone: list[int] = []
    while len(gone) < count:
        left = [unit for unit in range(removal.units) if unit not in gone]
        gone.append(min(left, key=lambda unit: removal.cost((*gone, unit))))
    return gone


@pytest.mark.parametrize(
    ("intercept", "focus"), [(True, 0.0), (True, 0.6), (False, 0.6)], ids=["intercept", "focus", "fixed bias, focus"]
)
def test_the_refit_solves_a_weighted_ridge_regression(model: PreTrainedModel, intercept: bool, focus: float) -> None:
    """`Σ_t w_t ‖x^T_t + Sub^T(x^T_t) − x^S_t − h_t W − b‖² / Σ w_t + ρ·mean(diag G)·‖W − W_dense‖²`, in one matrix."""
    ridge = 0.05
    own = {"align": False, "reconsider": 0.0, "narrow": False}
    options = {"ridge": ridge, "intercept": intercept, "focus": focus, **own}
    pruner = Pruner(model, data(), options=options)
    result = pruner.prune(Budget(flops=0.5))
    dense, student, groups = plain.double(model), plain.double(model), plain.without_padding(data())
    factors = {name: mask.double() for name, mask in result.masks.items()}
    for position, site in enumerate(dense.sites):
        kept = result.masks[site.name].repeat_interleave(site.unit_width)
        energy = gradients_at(dense, groups, site).square().sum(1)
        weights = (1 - focus) + focus * energy / energy.mean()
        _, _, wanted = plain.tokens_at(dense, groups, site)
        with plain.scaled(student, {each.name: factors[each.name] for each in dense.sites[: position + 1]}):
            inputs, outputs, after = plain.tokens_at(student, groups, site)
        weight, bias = weighted_ridge(
            inputs[:, kept],
            wanted - (after - outputs),
            weights,
            prior=dense.consumer_weight(site)[kept],
            bias=None if intercept else dense.consumer_bias(site),
            ridge=ridge,
        )
        student.consumer_weight(site)[kept], student.consumer(site).bias[:] = weight, bias
    with plain.scaled(student, factors), torch.no_grad():
        expected, found = (
            torch.cat([each(**group).logits.double() for group in groups]) for each in (student.model, result.model)
        )
    torch.testing.assert_close(found, expected, atol=1e-3 * float(expected.std()), rtol=0)


def weighted_ridge(
    inputs: Tensor, targets: Tensor, weights: Tensor, *, prior: Tensor, bias: Tensor | None, ridge: float
) -> tuple[Tensor, Tensor]:
    """One least-squares problem: a row for every token, and one for every feature that pulls to the prior."""
    strength = ridge * float(((weights[:, None] * inputs**2).sum(0) / weights.sum()).mean())
    root = (weights / weights.sum()).sqrt()[:, None]
    features = inputs.shape[1]
    pull = strength**0.5 * torch.eye(features, dtype=inputs.dtype)
    if bias is not None:
        design, right = torch.cat([root * inputs, pull]), torch.cat([root * (targets - bias), pull @ prior])
        return torch.linalg.lstsq(design, right).solution, bias
    ones, zeros = torch.ones(len(inputs), 1, dtype=inputs.dtype), torch.zeros(features, 1, dtype=inputs.dtype)
    design = torch.cat([root * torch.cat([inputs, ones], 1), torch.cat([pull, zeros], 1)])
    solution = torch.linalg.lstsq(design, torch.cat([root * targets, pull @ prior])).solution
    return solution[:-1], solution[-1]


@pytest.mark.parametrize("damage", [*DEAD, "classifier"])
def test_what_adds_nothing_goes_first(damage: str) -> None:
    """A sublayer that puts out nothing, reads or hides nothing, or a head that says the same of every text."""
    dense = copy.deepcopy(classifier())
    module = dense.get_submodule(DEAD.get(damage, damage))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    result = Pruner(dense, data()).prune(Budget(flops=0.6))
    assert all(bool(weights.isfinite().all()) for weights in result.model.parameters())
    if damage in DEAD:
        assert not result.masks[f"encoder.layer.1.{'ffn' if 'intermediate' in damage else 'attention'}"].any()
