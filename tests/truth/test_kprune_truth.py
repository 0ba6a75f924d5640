"""K-prune's knowledge against differences and loops over tokens, and its whole walk against one written out plainly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import plain
import pytest
import reach
import torch
from torch import Tensor
from trained import classifier, counting_rows, of_few_lengths, regressor
from transformers import PreTrainedModel

from trimformer import Budget, Pruner
from trimformer.data.rows import Batch
from trimformer.model.sites import Masks, Scores, Site
from trimformer.model.structure import Structure

STEP = 1e-4
MODELS = {"classifier": classifier, "regressor": regressor}
SHARES = (0.6, 0.3)


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str) -> PreTrainedModel:
    return MODELS[name]()


@cache
def few() -> list[Batch]:
    return of_few_lengths(counting_rows, 4, seed=1)


@cache
def many() -> list[Batch]:
    return of_few_lengths(counting_rows, 14, seed=2)


def cut_below(structure: Structure) -> Masks:
    """Half of the units of the first block: the student is no longer the teacher."""
    return {site.name: torch.arange(site.units) % 2 == 0 for site in structure.sites[:2]}


@dataclass
class Seen:
    """Of a set of rows: by row and unit, the slope of the loss by the unit's factor; by unit, what it adds."""

    slopes: dict[str, Tensor]
    energy: dict[str, Tensor]
    tokens: int

    @property
    def rows(self) -> int:
        return len(next(iter(self.slopes.values())))


def scores_of(seen: Seen, sites: list[Site], **options: float) -> Scores:
    """`μ_kind / unit_width · (λ_pred K_pred + λ_rep K_rep) / F_u`."""
    given = {"mu": 64.0, "lambda_pred": 1.0, "lambda_rep": 0.256} | options
    scores = {}
    for site in sites:
        predictive = (seen.slopes[site.name] ** 2).sum(0) / (2 * seen.rows)
        representational = seen.energy[site.name] / seen.tokens / site.width
        knowledge = given["lambda_pred"] * predictive + given["lambda_rep"] * representational
        weight = given["mu"] / site.unit_width if site.kind == "head" else 1.0
        scores[site.name] = weight * knowledge / plain.flops(site, site.width, seen.tokens / seen.rows)
    return scores


@cache
def by_differences(name: str, gamma: float) -> Seen:
    """Every unit above the lower block a little weaker and a little stronger, every token in a loop."""
    dense, student, groups = plain.double(MODELS[name]()), plain.double(MODELS[name]()), plain.without_padding(few())
    below, sites = cut_below(dense), dense.sites[2:]
    slopes: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    for site in sites:
        changes = torch.cat([torch.eye(site.units), -torch.eye(site.units)]).double() * STEP
        for group in groups:
            rows = len(group["input_ids"])
            copies = {key: values.repeat_interleave(len(changes), 0) for key, values in group.items()}
            with plain.scaled(student, {**below, site.name: 1 + changes.repeat(rows, 1)}):
                losses = plain.distance(dense.model(**copies).logits, student.model(**copies).logits, gamma)
            stronger, weaker = losses.reshape(rows, 2, site.units).unbind(1)
            slopes[site.name].append((stronger - weaker) / (2 * STEP))
    with plain.scaled(student, below):
        energy = {site.name: token_by_token(student, groups, site) for site in sites}
    tokens = sum(group["input_ids"].numel() for group in groups)
    return Seen({key: torch.cat(values) for key, values in slopes.items()}, energy, tokens)


def token_by_token(structure: Structure, groups: list[Batch], site: Site) -> Tensor:
    """By unit, the sum over tokens of the squared length of what it adds to the residual stream."""
    inputs, _, _ = plain.tokens_at(structure, groups, site)
    weight, energy = structure.consumer_weight(site), torch.zeros(site.units, dtype=torch.float64)
    for token in inputs:
        for unit in range(site.units):
            own = slice(unit * site.unit_width, (unit + 1) * site.unit_width)
            energy[unit] += (token[own] @ weight[own]).square().sum()
    return energy


def assert_scores(found: Scores, expected: Scores) -> None:
    for site, values in expected.items():
        torch.testing.assert_close(found[site], values, rtol=2e-3, atol=1e-4 * float(values.max()))


@pytest.mark.parametrize("gamma", [0.7, 2.0])
def test_predictive_knowledge_is_the_squared_slope_of_the_divergence_by_the_mask(
    name: str, model: PreTrainedModel, gamma: float
) -> None:
    structure = plain.double(model)
    expected = scores_of(by_differences(name, gamma), list(structure.sites[2:]), lambda_rep=0.0)
    assert all(float(values.min()) > 0 for values in expected.values())
    assert_scores(reach.knowledge(model, few(), cut_below(structure), gamma=gamma, lambda_rep=0.0), expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"mu": 3.0}, {"lambda_pred": 0.0}, {"lambda_pred": 0.3, "lambda_rep": 2.0, "mu": 640.0}],
    ids=["defaults", "mu", "representational alone", "both"],
)
def test_both_kinds_of_knowledge_are_weighed_and_divided_by_the_cost(
    name: str, model: PreTrainedModel, options: dict[str, float]
) -> None:
    structure = plain.double(model)
    expected = scores_of(by_differences(name, 2.0), list(structure.sites[2:]), **options)
    assert_scores(reach.knowledge(model, few(), cut_below(structure), **options), expected)


def test_batch_fisher_squares_the_mean_slope_of_each_batch(name: str, model: PreTrainedModel) -> None:
    (batch,), structure, seen = few(), plain.double(model), by_differences(name, 2.0)
    parts = [{key: values[part] for key, values in batch.items()} for part in (slice(0, 5), slice(5, None))]
    found = reach.knowledge(model, parts, cut_below(structure), batch_fisher=True, lambda_rep=0.0)
    means = {key: torch.stack([s[:5].mean(0), s[5:].mean(0)]) for key, s in seen.slopes.items()}
    expected = scores_of(Seen(means, seen.energy, seen.tokens), list(structure.sites[2:]), lambda_rep=0.0)
    # two slopes for two batches: their number, and so the mean length, is not that of the rows
    length, rows = seen.tokens / seen.rows, seen.rows
    for site in structure.sites[2:]:
        cost = plain.flops(site, site.width, length) / plain.flops(site, site.width, seen.tokens / 2)
        assert_scores({site.name: found[site.name] * rows / 2 * cost}, {site.name: expected[site.name]})


def test_the_fishers_knowledge_is_exact_for_two_classes_and_for_a_number(model: PreTrainedModel) -> None:
    """`Σ p₀p₁ (∂(z₀ − z₁) / ∂m)²`: which sign is drawn does not matter, and at the dense model it is not zero."""
    structure, groups = plain.double(model), plain.without_padding(few())
    seen = by_autograd(structure, structure, groups, plain.ones(structure), list(structure.sites), None)
    expected = scores_of(seen, list(structure.sites), lambda_rep=0.0)
    assert all(float(values.max()) > 0 for values in expected.values())
    assert_scores(reach.knowledge(model, few(), {}, predictive="fisher", lambda_rep=0.0), expected)


def test_the_dense_model_leaves_no_slope(model: PreTrainedModel) -> None:
    for values in reach.knowledge(model, few(), {}, lambda_rep=0.0).values():
        assert float(values.abs().max()) < 1e-12


def by_autograd(
    dense: Structure, student: Structure, groups: list[Batch], masks: Masks, sites: list[Site], gamma: float | None
) -> Seen:
    """Slopes by autograd of a factor for every row and unit; without a temperature, those of the Fisher's root."""
    slopes: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    for group in groups:
        rows = len(group["input_ids"])
        factors = {name: mask.double().repeat(rows, 1).requires_grad_() for name, mask in masks.items()}
        with plain.scaled(student, factors):
            logits = student.model(**group).logits
        if gamma is None:
            plain.two_classes_root(logits).backward()
        else:
            plain.distance(dense.model(**group).logits, logits, gamma).sum().backward()
        for site in sites:
            slopes[site.name].append(factors[site.name].grad)
    with plain.scaled(student, masks):
        energy = {site.name: all_tokens(student, groups, site) for site in sites}
    tokens = sum(group["input_ids"].numel() for group in groups)
    return Seen({key: torch.cat(values) for key, values in slopes.items()}, energy, tokens)


def all_tokens(structure: Structure, groups: list[Batch], site: Site) -> Tensor:
    inputs, _, _ = plain.tokens_at(structure, groups, site)
    by_unit = inputs.reshape(len(inputs), site.units, -1)
    return torch.einsum("tuw,uwd->utd", by_unit, structure.unit_weights(site)).square().sum((1, 2))


def plain_kprune(
    model: PreTrainedModel, data: list[Batch], share: float, *, tune: bool, intercept: bool, **options: float
) -> tuple[Masks, Structure]:
    """Sublayer by sublayer: scores by autograd of masks, the best kept in competition with all above, lstsq."""
    dense, student, groups = plain.double(model), plain.double(model), plain.without_padding(data)
    length, gamma = plain.mean_length(groups), options.pop("gamma", 2.0)
    costs = {site.name: plain.flops(site, site.width, length) for site in dense}
    left = share * sum(costs[site.name] * site.units for site in dense)
    masks: Masks = {name: values.bool() for name, values in plain.ones(dense).items()}
    for position, site in enumerate(dense.sites):
        above = list(dense.sites[position:])
        scores = scores_of(by_autograd(dense, student, groups, masks, above, gamma), above, **options)
        masks[site.name] = plain.take_best(scores, costs, left)[site.name]
        left -= costs[site.name] * int(masks[site.name].sum())
        if tune:
            plain.refit(dense, student, masks, groups, site, intercept=intercept)
    return masks, student


@pytest.mark.parametrize(
    ("tune", "intercept", "options"),
    [(False, True, {}), (True, True, {}), (True, False, {"gamma": 0.5, "mu": 8.0})],
    ids=["cut", "intercept", "fixed bias, other options"],
)
def test_the_walk_keeps_and_solves_what_a_plain_one_does(
    model: PreTrainedModel, tune: bool, intercept: bool, options: dict[str, float]
) -> None:
    given = {"tune": tune, "intercept": intercept, "ridge": 0.0, **options}
    result = Pruner(model, many(), method="kprune", options=given).prune(Budget(flops=0.5))
    masks, student = plain_kprune(model, many(), 0.5, tune=tune, intercept=intercept, **options)
    for site, mask in masks.items():
        assert torch.equal(result.masks[site], mask), site
    groups = plain.without_padding(many())
    with plain.scaled(student, masks):
        expected = torch.cat([student.model(**group).logits for group in groups])
    with torch.no_grad():
        found = torch.cat([result.model(**group).logits for group in groups]).double()
    torch.testing.assert_close(found, expected, atol=1e-3 * float(expected.std()), rtol=0)


@pytest.mark.parametrize("share", SHARES)
def test_one_shot_keeps_what_adds_most_at_the_dense_model(model: PreTrainedModel, share: float) -> None:
    """There the slopes are zero, and representational knowledge is all there is."""
    options = {"one_shot": True, "tune": False}
    masks = Pruner(model, many(), method="kprune", options=options).prune(Budget(flops=share)).masks
    structure, groups = plain.double(model), plain.without_padding(many())
    energy = {site.name: all_tokens(structure, groups, site) for site in structure}
    tokens = sum(group["input_ids"].numel() for group in groups)
    rows = {site.name: torch.zeros(plain.count(groups), site.units) for site in structure}
    scores = scores_of(Seen(rows, energy, tokens), list(structure.sites))
    costs = {site.name: plain.flops(site, site.width, plain.mean_length(groups)) for site in structure}
    limit = share * sum(costs[site.name] * site.units for site in structure)
    for site, mask in plain.take_best(scores, costs, limit).items():
        assert torch.equal(masks[site], mask), site
