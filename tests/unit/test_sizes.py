"""Sizes asked for by name: what can be asked, what is refused, and that searches find the best within bounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import inputs, tiny_model
from trimformer import Budget, Pruner, Sizes
from trimformer.errors import InvalidOption, TrimformerError, UnreachableTarget
from trimformer.model.sites import Masks, Scores
from trimformer.model.structure import Structure, read_structure
from trimformer.model.surgery import cut
from trimformer.pruning.budget import linear_table
from trimformer.pruning.choose.allocation import best_split, rearranged
from trimformer.pruning.choose.bounds import Bounds
from trimformer.pruning.choose.curves import RemovalCurve, damped, removal_curve
from trimformer.pruning.choose.search import keep_best, remove_cheapest
from trimformer.pruning.constraints import Constraints, Drop, constrain, suited
from trimformer.pruning.method_options import make_method
from trimformer.pruning.sizes import read_sizes
from trimformer.pruning.target import aimed

UNITS = {"a": 3, "b": 4, "c": 2}
BOUNDS = [
    Bounds(),
    Bounds({"a": 2}, {"b": 1}),
    Bounds({"a": 1, "b": 2, "c": 1}, {"a": 2, "b": 3, "c": 1}),
    Bounds({"a": 2}, {"a": 2}, {"a": torch.tensor([False, False, True])}),
    Bounds({"b": 2, "c": 1}, {}, {"b": torch.tensor([True, True, False, False]), "c": torch.tensor([False, True])}),
]
SEEDS = range(4)


def random_scores(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(units, generator=generator, dtype=torch.float64) for name, units in UNITS.items()}


def split(flat: Tensor) -> Masks:
    return dict(zip(UNITS, flat.split(list(UNITS.values())), strict=True))


EVERY = torch.tensor(list(itertools.product([False, True], repeat=sum(UNITS.values()))))
"""Every choice of units of all sites, a row each."""


def within(bounds: Bounds, masks: Masks) -> bool:
    try:
        bounds.check(masks)
    except TrimformerError:
        return False
    return True


Search = Callable[[Scores, dict[str, Tensor], float, Bounds], Masks]


def by_curves(scores: Scores, tables: dict[str, Tensor], limit: float, bounds: Bounds) -> Masks:
    curves = {name: RemovalCurve(own.argsort(), own.sort().values) for name, own in scores.items()}
    return remove_cheapest(curves, tables, limit, bounds)


def by_split(scores: Scores, tables: dict[str, Tensor], limit: float, bounds: Bounds) -> Masks:
    return best_split({name: scores[name] for name in ("a", "c")}, {"b": scores["b"]}, tables, limit, bounds)


@pytest.mark.parametrize("bounds", BOUNDS, ids=range(len(BOUNDS)))
@pytest.mark.parametrize(("search", "head"), [(keep_best, 1.0), (by_curves, 1.0), (by_split, 3.0)])
def test_no_choice_within_bounds_is_better(search: Search, head: float, bounds: Bounds) -> None:
    """No units within bounds and limit have a larger sum of scores: where all cost alike, or kinds by split."""
    tables = {name: linear_table(units, 1.0 if name == "b" else head) for name, units in UNITS.items()}
    possible = torch.stack([row for row in EVERY if within(bounds, split(row))])
    unit_costs = torch.cat([table.diff() for table in tables.values()])
    costs = (possible * unit_costs).sum(1)
    least, most = bounds.cost(tables)
    assert (float(costs.min()), float(costs.max())) == (least, most)
    for seed, limit in itertools.product(SEEDS, range(int(least), int(most) + 2)):
        scores = random_scores(seed)
        masks = search(scores, tables, limit, bounds)
        kept = torch.cat([masks[name] for name in UNITS])
        assert within(bounds, masks)
        assert float(unit_costs[kept].sum()) <= limit
        flat = torch.cat(list(scores.values()))
        best = float((possible[costs <= limit] * flat).sum(1).max())
        assert float(flat[kept].sum()) == pytest.approx(best)


@pytest.mark.parametrize("width", [1, 2])
def test_protected_units_are_never_removed_along_a_curve(width: int) -> None:
    """The others go in the order that brute force finds, each time the cheapest with all left making up for it."""
    units, outputs = 6, 3
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, units * width, generator=generator, dtype=torch.float64)
    weight = torch.randn(units * width, outputs, generator=generator, dtype=torch.float64)
    weight[:width] = 0  # unit 0 would go first
    gram, metric = damped(inputs.T @ inputs / 50, 1e-6), torch.eye(outputs, dtype=torch.float64)
    protected = torch.tensor([True, False, False, True, False, False])
    curve = removal_curve(gram, metric, weight, units, site="x", removals=4, protected=protected)
    assert set(curve.order.tolist()) == {1, 2, 4, 5}
    gone: list[int] = []
    for unit in curve.order.tolist():
        left = {other: lost(gram, weight, [*gone, other], width) for other in {1, 2, 4, 5} - set(gone)}
        assert unit == min(left, key=left.__getitem__)
        gone.append(unit)


def lost(gram: Tensor, weight: Tensor, gone: list[int], width: int) -> float:
    """The least change of the output, over all weights of the units that are left."""
    features = torch.arange(len(gram)).reshape(-1, width)
    removed = features[gone].flatten()
    rest = torch.tensor([f for f in range(len(gram)) if f not in removed.tolist()])
    cross = gram[removed][:, rest]
    schur = gram[removed][:, removed] - cross @ torch.linalg.solve(gram[rest][:, rest], cross.T)
    return float((weight[removed] * (schur @ weight[removed])).sum())


def test_protected_units_are_not_exchanged() -> None:
    gradients = torch.randn(20, 6, generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([True, False, True, False, True, False])
    for unit in range(6):
        protected = torch.zeros(6, dtype=torch.bool).index_fill_(0, torch.tensor([unit]), value=True)
        found = rearranged(mask, gradients, protected)
        assert found.sum() == 3
        assert found[unit] == mask[unit]


def test_protected_units_are_exchanged_for_the_last_kept() -> None:
    protected = torch.tensor([False, True, False, True, False, False])
    mask = torch.tensor([True, False, True, True, False, True])
    found = Bounds(protected={"a": protected}).keeping_protected("a", mask)
    assert found.tolist() == [True, True, True, True, False, False]
    assert torch.equal(Bounds().keeping_protected("a", mask), mask)


def test_what_is_dropped_loses_least_together() -> None:
    drop = Drop(2, (("a1", "a2"), ("b1", "b2"), ("c1", "c2"), ("d1",)))
    losses = {"a1": 1.0, "a2": 5.0, "b1": 2.0, "b2": 2.0, "c1": 0.5, "c2": 9.0, "d1": 5.0}
    dropped = Constraints(drops=(drop,)).dropping(losses).bounds.most
    chosen = min(
        itertools.combinations(drop.groups, 2), key=lambda pair: sum(losses[n] for group in pair for n in group)
    )
    assert dropped == dict.fromkeys(itertools.chain(*chosen), 0)
    then = Constraints(drops=(drop, Drop(1, (("b1",), ("a1",), ("a2",))))).dropping(losses).bounds.most
    assert set(then) - set(dropped) == {"a1"}


@pytest.fixture(scope="module")
def structure() -> Structure:
    """A classifier of four blocks; in the last, two of four heads and 5 of 24 neurons are left."""
    dense = read_structure(tiny_model("bert", num_hidden_layers=4))
    masks = dense.full_masks()
    masks["encoder.layer.3.attention"][2:] = False
    masks["encoder.layer.3.ffn"][5:] = False
    return cut(dense, masks)


def ranges(structure: Structure, **sizes: Any) -> list[tuple[int, int]]:
    bounds = constrain(Sizes(**sizes), structure).bounds
    return [bounds.of(site.name, site.units) for site in structure]


ALL_HEADS, ALL_NEURONS = (4, 4), (24, 24)
ANY = [(0, 4), (0, 24)] * 3 + [(0, 2), (0, 5)]


@pytest.mark.parametrize(
    ("sizes", "changed"),
    [
        ({"heads": 2}, {0: (2, 2), 2: (2, 2), 4: (2, 2), 6: (2, 2)}),
        ({"heads": "1-2"}, {0: (1, 2), 2: (1, 2), 4: (1, 2), 6: (1, 2)}),
        ({"neurons": [24, "3-8", 0, "all"]}, {1: (24, 24), 3: (3, 8), 5: (0, 0), 7: (5, 5)}),
        ({"neurons": "24,3-8,0,all"}, {1: (24, 24), 3: (3, 8), 5: (0, 0), 7: (5, 5)}),
        ({"keep_layers": "0,2"}, {0: ALL_HEADS, 1: ALL_NEURONS, 4: ALL_HEADS, 5: ALL_NEURONS}),
        ({"keep_layers": 1, "heads": 1}, {0: (1, 1), 2: ALL_HEADS, 3: ALL_NEURONS, 4: (1, 1), 6: (1, 1)}),
        ({"drop_blocks": "1-1"}, {2: (0, 0), 3: (0, 0)}),
        ({"drop_blocks": [0, 3]}, {0: (0, 0), 1: (0, 0), 6: (0, 0), 7: (0, 0)}),
        ({"drop_sublayers": "0.ffn,encoder.layer.2.attention"}, {1: (0, 0), 4: (0, 0)}),
        ({"only": "heads"}, {1: ALL_NEURONS, 3: ALL_NEURONS, 5: ALL_NEURONS, 7: (5, 5)}),
        (
            {"sites": {"0-1": "all", "3": 0}},
            {0: ALL_HEADS, 1: ALL_NEURONS, 2: ALL_HEADS, 3: ALL_NEURONS, 6: (0, 0), 7: (0, 0)},
        ),
        ({"sites": {"2": {"heads": "1-3", "ffn": 7}}}, {4: (1, 3), 5: (7, 7)}),
        ({"sites": {2: {"heads": "1-3", "ffn": 7}}}, {4: (1, 3), 5: (7, 7)}),
        ({"sites": {"encoder.layer.1.ffn": {"keep": "0-2,9"}}}, {3: (4, 24)}),
        (
            {"sites": {"encoder.layer.1.ffn": {"keep": "0-2,9"}}, "neurons": "1-5"},
            {1: (1, 5), 3: (4, 5), 5: (1, 5), 7: (1, 5)},
        ),
    ],
)
def test_what_sizes_mean(structure: Structure, sizes: dict[str, Any], changed: dict[int, tuple[int, int]]) -> None:
    assert ranges(structure, **sizes) == [changed.get(place, pair) for place, pair in enumerate(ANY)]


def test_counts_of_blocks_are_chosen_among_those_that_nothing_else_is_asked_of(structure: Structure) -> None:
    drops = constrain(Sizes(drop_blocks=2, keep_layers="0", heads=1), structure).drops
    assert drops == (Drop(2, tuple((f"encoder.layer.{n}.attention", f"encoder.layer.{n}.ffn") for n in (1, 2, 3))),)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"heads": 5}, "encoder.layer.0.attention has: layers 0 to 2 can have 0 to 4, layer 3 can have 0 to 2"),
        ({"heads": 3}, "`heads=3` is more than encoder.layer.3.attention has: layers 0 to 2 can have 0 to 4, layer 3"),
        ({"neurons": "1,2"}, "`neurons` has 2 entries, the model has 4 layers"),
        ({"neurons": [24, 24, 24, 24]}, "`neurons=24` is more than encoder.layer.3.ffn has"),
        ({"heads": -1}, "`heads=-1` must be a number of units such as 8, a range such as 4-8, or all"),
        ({"heads": True}, "`heads=True` must be a number"),
        ({"heads": 2.5}, "`heads=2.5` must be a number"),
        ({"heads": "many"}, "`heads=many` must be a number"),
        ({"heads": "8-4"}, "`heads=8-4` must be a number"),
        ({"keep_layers": "4"}, "`keep_layers`: there is no layer 4, the model has layers 0 to 3"),
        ({"keep_layers": "first"}, "`keep_layers=first` must be numbers and ranges"),
        (
            {"keep_layers": "1", "drop_blocks": "0-1"},
            "`keep_layers` and `drop_blocks` ask for 4 and 0 units of encoder.layer.1.attention",
        ),
        ({"keep_layers": "1", "sites": {"1": {"heads": 2}}}, "`keep_layers` and `sites` ask for 4 and 2 units"),
        ({"sites": {"0-1": 0, "1": "all"}}, "two entries of `sites` ask for 0 and 4 units"),
        ({"drop_blocks": 0}, "must be at least 1"),
        ({"drop_blocks": 5}, "`drop_blocks=5`: 4 of 4 can be dropped"),
        (
            {"drop_blocks": 3, "keep_layers": "0-1"},
            "`drop_blocks=3`: 2 of 4 can be dropped, of the others something else is asked",
        ),
        ({"drop_blocks": "x"}, "`drop_blocks=x` must be numbers"),
        ({"drop_blocks": 3, "drop_sublayers": 3}, "`drop_sublayers=3`: 2 of 8 can be dropped, of the others something"),
        ({"drop_sublayers": "3.attn"}, r"unknown sublayer in `drop_sublayers` '3.attn'. Did you mean '3.attention'\?"),
        ({"only": "experts"}, "`only=experts` must be heads or neurons"),
        ({"only": "neurons", "heads": 2}, "`only=neurons` keeps all heads, and `heads` is a size of them"),
        (
            {"sites": {"encoder.layer.1.fnn": 4}},
            r"unknown layer or sublayer in `sites` 'encoder.layer.1.fnn'. Did you mean",
        ),
        ({"sites": {"7": 0}}, "`sites`: there is no layer 7"),
        ({"sites": {"0": 3}}, "`sites`: layer 0 can be all, 0, or sizes such as"),
        ({"sites": {"0": {"experts": 3}}}, "unknown kind of unit of layer 0 in `sites` 'experts'"),
        ({"sites": {"0": {"heads": {"unit": 3}}}}, r"unknown key of encoder.layer.0.attention in `sites` 'unit'"),
        (
            {"sites": {"0": {"heads": {"keep": [4]}}}},
            "`sites`: unit 4 of encoder.layer.0.attention is to stay: layer 0 can have 0 to 4",
        ),
        (
            {"sites": {"0": {"heads": {"units": 1, "keep": "0-1"}}}},
            "2 units of encoder.layer.0.attention are to stay, of at most 1",
        ),
        (
            {"sites": {"0": {"heads": {"keep": "0-1"}}}, "drop_blocks": "0-0"},
            "2 units of encoder.layer.0.attention are to stay, of at most 0",
        ),
        ({"sites": {"0": {"heads": [1, 2]}}}, r"`sites=\[1, 2\]` of encoder.layer.0.attention must be a number"),
        ({"sites": [1]}, r"`sites=\[1\]` must be sizes by layer or sublayer"),
    ],
)
def test_what_does_not_fit_is_refused(structure: Structure, sizes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said) as error:
        constrain(Sizes(**sizes), structure)
    assert "\n" not in str(error.value)


def test_heads_of_key_value_groups_are_told() -> None:
    with pytest.raises(InvalidOption, match=r"0 to 4 \(key/value heads, each with the 2 query heads that share it\)$"):
        constrain(Sizes(heads=8), read_structure(tiny_model("llama")))


def test_a_file_that_windows_wrote_is_read(tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    file.write_text('{"0": "all"}', encoding="utf-8-sig")
    assert read_sizes(file) == {"0": "all"}


@pytest.mark.parametrize("content", ["[1, 2]", "{", "8", "", "[" * 100_000])
def test_a_file_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "sizes.json"
    file.write_text(content)
    with pytest.raises(InvalidOption, match="must be JSON") as error:
        read_sizes(file)
    assert str(file) in str(error.value)
    with pytest.raises(InvalidOption, match="cannot be read"):
        read_sizes(tmp_path / "missing.json")


@pytest.mark.parametrize("content", ['{"1": 0, "0": 0, "1": "all"}', '{"0": {"heads": 1, "heads": 2}}'])
def test_a_layer_that_is_there_twice_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "sizes.json"
    file.write_text(content)
    with pytest.raises(InvalidOption, match=r"'(1|heads)' is there twice"):
        read_sizes(file)


@pytest.mark.parametrize("entry", [math.nan, None])
def test_a_size_that_is_none_is_named_with_its_layer(structure: Structure, entry: Any) -> None:
    with pytest.raises(InvalidOption, match=rf"`sites={entry}` of layer 0 must be a number"):
        constrain(Sizes(sites={"0": entry}), structure)
    with pytest.raises(InvalidOption, match=rf"`sites={entry}` of encoder.layer.0.ffn must be a number"):
        constrain(Sizes(sites={"0": {"neurons": entry}}), structure)


def test_a_block_chosen_by_cost_goes_whatever_shape_its_heads_were_to_have() -> None:
    bounds = Bounds({"a": 6, "b": 6}, {"a": 6, "b": 6}, shapes={"a": (2, 3), "b": (2, 3)})
    found = Constraints(bounds, (Drop(1, (("a",), ("b",))),)).dropping({"a": 2.0, "b": 1.0}).bounds
    assert (found.of("a", 12), found.of("b", 12)) == ((6, 6), (0, 0))
    assert found.shapes == {"a": (2, 3)}


@pytest.mark.parametrize(
    ("method", "sizes", "said"),
    [
        ("kcm", {"heads": 1}, "kcm removes neurons only, and encoder.layer.0.attention is to have fewer heads"),
        ("kcm", {"drop_blocks": "1-1"}, "kcm removes neurons only, and encoder.layer.1.attention"),
        ("kcm", {"drop_sublayers": 1}, "kcm does not tell what whole sublayers are worth"),
        ("dual_cp", {"drop_blocks": 1}, "dual_cp does not tell what whole sublayers are worth.*name them"),
    ],
)
def test_a_method_says_what_it_cannot(structure: Structure, method: str, sizes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        suited(constrain(Sizes(**sizes), structure), structure, method, make_method(method, {}))


def test_sizes_that_remove_nothing_need_a_budget(structure: Structure) -> None:
    method = make_method("magnitude", {})
    for sizes in (Sizes(), Sizes(keep_layers="0-1"), Sizes(only="neurons"), Sizes(heads="all")):
        with pytest.raises(InvalidOption, match="nothing goes by these sizes alone: give a budget"):
            aimed(None, sizes, structure, "magnitude", method)
        assert aimed(Budget(flops=0.5), sizes, structure, "magnitude", method).share == 0.5


def test_multiples_are_of_what_the_budget_decides() -> None:
    units = dict.fromkeys("abcdef", 100)
    bounds = Bounds({"a": 10, "b": 33, "c": 61, "d": 90}, {"a": 90, "b": 33, "c": 63, "d": 100, "f": 3})
    found = bounds.in_multiples(units, dict.fromkeys(units, 8))
    assert [found.of(name, 100) for name in units] == [(16, 88), (33, 33), (61, 63), (96, 100), (0, 100), (0, 3)]
    assert list(bounds.fitting(units, dict.fromkeys(units, 8)).values()) == [8, 1, 1, 8, 8, 1]


@pytest.mark.parametrize("round_to", [None, 1, 8])
def test_what_is_asked_for_by_name_is_priced_as_it_is(round_to: int | None) -> None:
    model = tiny_model("bert", intermediate_size=512)
    pruner = Pruner(model, [inputs(model, (9, 5, 8), seed) for seed in range(4)], progress=False, method="magnitude")
    fits = pruner.prune(Budget(flops=0.985, round_to=round_to), Sizes(neurons=500))
    assert [[each.units[kind].kept for kind in ("head", "neuron")] for each in fits.facts.units] == [[4, 500]] * 2
    few = pruner.prune(Budget(flops=0.5, round_to=round_to), Sizes(neurons="0-3"))
    assert [each.units["neuron"].kept for each in few.facts.units] == [3, 3]


def test_an_impossible_budget_names_the_shares_that_are_possible() -> None:
    tables = {name: linear_table(units, 1.0) for name, units in UNITS.items()}
    constraints = Constraints(Bounds({"a": 3}, {"b": 2}), (Drop(1, (("b",), ("c",))),))
    assert constraints.cost(tables) == (3.0, 5.0)
    with pytest.raises(UnreachableTarget, match=r"a share of 0.2222 .* from 0\.3334 to 0\.5556 of the cost"):
        constraints.check_limit(tables, 2.0, lambda units: units / 9)
    constraints.check_limit(tables, 3.0, lambda units: units / 9)


@pytest.mark.parametrize(
    ("key", "about_heads"), [(0, False), ("0.ffn", False), ("0.ffn_2", False), ("0.attention", True)]
)
def test_sizes_of_neurons_alone_ask_nothing_of_heads(key: Any, *, about_heads: bool) -> None:
    size = {"neurons": 4} if key == 0 else 4
    assert Sizes(sites={key: size}).about_heads is about_heads
    assert list(Sizes(sites={key: size}).asked["sites"]) == [str(key)]
