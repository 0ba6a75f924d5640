"""What every cost promises: its formula equals an independent count on the real model, for uneven and empty sublayers.

A new cost needs one line in `COUNTS`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from tiny_models import default_names, random_masks, tiny_model
from trimformer import plugins
from trimformer.data.batches import Workload
from trimformer.model.sites import Masks
from trimformer.model.structure import Structure, parameter_count, read_structure
from trimformer.model.surgery import cut
from trimformer.pruning.budget import Cost, MeasuredCost, total_cost

LENGTHS = (1, 8, 13)


@torch.no_grad()
def count_flops(model: PreTrainedModel, length: int) -> int:
    """What PyTorch counts in the blocks alone for a second sequence of a batch without padding."""
    structure = read_structure(model.requires_grad_(requires_grad=False))
    blocks = f"{type(structure.base).__name__}.{structure.architecture.chains[0].blocks}"
    found = []
    for rows in (1, 2):
        with FlopCounterMode(display=False) as counter:
            structure.base(input_ids=torch.arange(5, 5 + length).expand(rows, length))
        counts = counter.get_flop_counts()
        found.append(sum(sum(counts.get(f"{blocks}.{index}", {}).values()) for index in range(len(structure.blocks()))))
    return found[1] - found[0]


def count_parameters(model: PreTrainedModel, _: int) -> int:
    """All weights but norms, which go with an attention that has no heads; what else is in no sublayer stays."""
    names = ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_layernorm", "key_layernorm")
    norms = [module for name, module in model.named_modules() if name.endswith(names)]
    return parameter_count(model) - sum(map(parameter_count, norms))


def count_bytes(model: PreTrainedModel, _: int) -> int:
    """All numbers of float32 but norms, as for parameters; what a file has beside them is the same for all sizes."""
    return 4 * count_parameters(model, _)


COUNTS: dict[str, Callable[[PreTrainedModel, int], int]] = {
    "flops": count_flops,
    "params": count_parameters,
    "size": count_bytes,
}
"""An independent count by name of the cost: model, tokens of one sequence -> number."""

MASKS: dict[str, Callable[[Structure], Masks]] = {
    "uneven": random_masks,
    "all kept": Structure.full_masks,
    "no heads in block 0": lambda structure: without(structure, "head", 0),
    "no neurons in block 1": lambda structure: without(structure, "neuron", 1),
    "nothing kept": lambda structure: {site.name: torch.zeros(site.units, dtype=torch.bool) for site in structure},
}


def without(structure: Structure, kind: str, block: int) -> Masks:
    """Random masks, one site empty."""
    masks = random_masks(structure, seed=3)
    return {site.name: masks[site.name] & ((site.kind, site.block) != (kind, block)) for site in structure}


@pytest.fixture(params=[name for name, cost in plugins.provided("costs").items() if not isinstance(cost, MeasuredCost)])
def name(request: pytest.FixtureRequest) -> str:
    assert request.param in COUNTS, f"cost {request.param!r} has no independent count: add one to COUNTS in {__file__}"
    return request.param


@pytest.fixture
def cost(name: str) -> Cost:
    return plugins.load("costs", name)


@pytest.fixture
def structure(architecture: str) -> Structure:
    """Sites without windows: eager attention computes all scores, and masks those outside of the window."""
    return without_windows(read_structure(tiny_model(architecture, attn_implementation="eager")))


def without_windows(structure: Structure) -> Structure:
    """The same structure, as if every token attended to all."""
    return replace(structure, sites=tuple(replace(site, window=None) for site in structure))


every_architecture = pytest.mark.parametrize("architecture", default_names())


@every_architecture
def test_formula_equals_an_independent_count(name: str, cost: Cost, structure: Structure) -> None:
    count = COUNTS[name]
    tables = {length: cost.prices(structure, Workload(length)).tables for length in LENGTHS}
    dense = {length: count(structure.model, length) for length in LENGTHS}
    for how, choose in MASKS.items():
        masks = choose(structure)
        small = copy.deepcopy(structure.model)
        cut(read_structure(small), masks)
        for length in LENGTHS:
            gone = total_cost(structure.full_masks(), tables[length]) - total_cost(masks, tables[length])
            assert gone == dense[length] - count(small, length), (how, length)


@pytest.mark.parametrize("architecture", default_names())
def test_flops_of_the_kept_units_are_those_of_the_cut_blocks(structure: Structure) -> None:
    tables = plugins.load("costs", "flops").prices(structure, Workload(9)).tables
    empty = copy.deepcopy(structure.model)
    cut(read_structure(empty), MASKS["nothing kept"](structure))
    beside = count_flops(empty, 9)  # of what is in no sublayer, such as XMOD's adapters
    for how, choose in MASKS.items():
        masks, small = choose(structure), read_structure(copy.deepcopy(structure.model))
        cut(small, masks)
        assert total_cost(masks, tables) == count_flops(small.model, 9) - beside, how


@pytest.mark.parametrize(("layers", "windows"), [(None, [6, 6]), (["full_attention", "sliding_attention"], [None, 6])])
def test_attention_windows_bound_the_scores(layers: list[str] | None, windows: list[int | None]) -> None:
    architecture, options = ("mistral", {}) if layers is None else ("qwen2", {"layer_types": layers})
    found = read_structure(tiny_model(architecture, sliding_window=6, **options))
    assert [site.window for site in found if site.attends] == windows
    price = plugins.load("costs", "flops").prices
    for length in (4, 9):
        tables, whole = price(found, Workload(length)).tables, price(without_windows(found), Workload(length)).tables
        for site in found:
            unseen = max(0, length - site.window) if site.window else 0
            assert float(whole[site.name][1] - tables[site.name][1]) == 4 * length * unseen * site.unit_width


@every_architecture
def test_an_already_cut_model_costs_the_same_by_unit(cost: Cost, structure: Structure) -> None:
    before = cost.prices(structure, Workload(7.5)).tables
    assert all(len(before[site.name]) == site.units + 1 for site in structure)
    assert all((table.diff() > 0).all() and table[0] == 0 for table in before.values())
    small = without_windows(cut(structure, without(structure, "head", 1)))
    now = cost.prices(small, Workload(7.5)).tables
    assert all(torch.equal(now[site.name], before[site.name][: site.units + 1]) for site in small)


def test_it_says_what_it_is(cost: Cost) -> None:
    assert cost.description
    assert "\n" not in cost.description
