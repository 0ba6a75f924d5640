"""What every architecture promises whose heads may be narrower than its config says: see `pruning/turning`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from tiny_models import ALL_HEADS, CONFIGS, UNKNOWN, inputs, main_head, outputs, tiny_model
from trimformer import Budget, Pruner, Sizes, load_model
from trimformer.errors import CheckpointError, InvalidOption, TrimformerError
from trimformer.model.description import Attention
from trimformer.model.masking import masked
from trimformer.model.query_heads import by_dimension
from trimformer.model.sites import Masks
from trimformer.model.structure import Structure, find_architecture, read_structure
from trimformer.model.surgery import cut, describe_cut
from trimformer.observing.calibration import Calibration
from trimformer.progress import staged
from trimformer.pruning.choose import narrowing
from trimformer.pruning.contract import STAGES
from trimformer.pruning.sizes import read_sizes
from trimformer.pruning.turning import turn


def can_narrow(name: str) -> bool:
    architecture = find_architecture(tiny_model(name).config)
    sublayers = architecture.chains[0].sublayers if architecture else ()
    return any(isinstance(each, Attention) and each.head_size is not None for each in sublayers)


NARROWING = [name for name in CONFIGS if name not in UNKNOWN and can_narrow(name)]
EXACT = {"atol": 1e-5, "rtol": 0}
ROUNDED = {"atol": 5e-5, "rtol": 1e-4}
"""Turned weights are other numbers."""


@pytest.fixture(params=NARROWING)
def dense(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param, main_head(request.param))


def narrow(model: PreTrainedModel) -> Structure:
    """A copy with dimensions of heads as units."""
    structure = read_structure(copy.deepcopy(model))
    return read_structure(structure.model, by_dimension(structure.architecture))


def rectangles(structure: Structure, heads: tuple[int, ...], dimensions: tuple[int, ...]) -> Masks:
    """Masks that keep some heads, and of these some dimensions; of the first block's heads the others."""
    masks = structure.full_masks()
    for site in structure:
        if site.head_width:
            kept = torch.zeros(site.heads, site.head_width, dtype=torch.bool)
            kept[[head % site.heads for head in heads]] = True
            gone = [place for place in range(site.head_width) if place not in dimensions]
            kept[:, gone] = False
            masks[site.name] = kept.flatten()
    return masks


def test_it_is_those_whose_positions_are_not_in_the_scores() -> None:
    assert {"bert", "roberta", "electra", "distilbert", "mpnet", "rembert", "gpt2", "opt"} <= set(NARROWING)
    assert not {"roformer", "llama", "deberta-v2", "modernbert"} & set(NARROWING)


def test_units_are_the_dimensions_of_all_heads(dense: PreTrainedModel) -> None:
    by_head = [site for site in read_structure(dense) if site.attends]
    by_part = [site for site in narrow(dense) if site.attends]
    assert [site.units for site in by_part] == [site.features for site in by_head]
    assert [(site.heads, site.head_width) for site in by_part] == [(site.units, site.unit_width) for site in by_head]


def test_a_cut_model_computes_what_the_masked_one_does(dense: PreTrainedModel) -> None:
    structure, batch = narrow(dense), inputs(dense)
    for heads, dimensions in (((0, 2), (1, 2, 5)), ((0, 1, 2, 3), (0,)), ((1,), tuple(range(8))), ((3, 1), (7, 0))):
        masks = rectangles(structure, heads, dimensions)
        with masked(structure, masks):
            expected = outputs(structure.model, batch)
        small = cut(narrow(dense), masks)
        torch.testing.assert_close(outputs(small.model, batch), expected, **EXACT)
        assert {(s.units, s.unit_width) for s in small if s.attends} == {(len(heads), len(dimensions))}


def test_two_cuts_are_one_cut_of_both(dense: PreTrainedModel) -> None:
    batch, first = inputs(dense), narrow(dense)
    small = cut(first, rectangles(first, (0, 1, 3), (0, 2, 3, 6)))
    second = read_structure(small.model, by_dimension(small.architecture))
    twice = cut(second, rectangles(second, (0, 2), (1, 3)))
    once = narrow(dense)
    cut(once, rectangles(once, (0, 3), (2, 6)))
    torch.testing.assert_close(outputs(twice.model, batch), outputs(once.model, batch), **EXACT)
    assert twice.model.config.quantization_config.attributes == once.model.config.quantization_config.attributes


def test_heads_go_after_dimensions(dense: PreTrainedModel) -> None:
    """What is left is a model like any other: its heads are units, as wide as they are now."""
    first = narrow(dense)
    small = cut(first, rectangles(first, (0, 1, 2), (0, 2, 3)))
    masks = {s.name: torch.arange(s.units) > 0 if s.attends else torch.ones(s.units, dtype=bool) for s in small}
    with masked(small, masks):
        expected = outputs(small.model, inputs(dense))
    less = cut(small, masks)
    torch.testing.assert_close(outputs(less.model, inputs(dense)), expected, **EXACT)
    assert {(site.units, site.unit_width) for site in less if site.attends} == {(2, 3)}


def test_what_is_saved_loads_with_its_own_class(dense: PreTrainedModel, tmp_path: Path) -> None:
    structure, head = narrow(dense), main_head(dense.config.model_type)
    small = cut(structure, rectangles(structure, (0, 2), (1, 2, 5))).model
    small.save_pretrained(tmp_path)
    loaded = getattr(transformers, ALL_HEADS[head][0]).from_pretrained(tmp_path)
    assert type(loaded) is type(dense)
    assert torch.equal(outputs(copy.deepcopy(loaded), inputs(dense)), outputs(copy.deepcopy(small), inputs(dense)))
    again = narrow(loaded)
    assert {(site.heads, site.head_width) for site in again if site.attends} == {(2, 3)}


def test_all_heads_may_stay(tmp_path: Path) -> None:
    dense = tiny_model("bert", "sequence classification")
    structure = narrow(dense)
    small = cut(structure, rectangles(structure, (0, 1, 2, 3), (0, 4))).model
    small.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    torch.testing.assert_close(outputs(loaded, inputs(dense)), outputs(small, inputs(dense)), **EXACT)


@pytest.mark.parametrize(
    ("heads", "width"), [(2, 4), (2, 9), (3, 3), (3, 2), (1, 6), (6, 1), (4, 8), (2, 8), (4, 3)], ids=str
)
def test_sizes_that_do_not_fit_the_projections_are_refused(tmp_path: Path, heads: int, width: int) -> None:
    """Two heads of three dimensions are no three of two, though the projections are as large."""
    structure = narrow(tiny_model("bert", "sequence classification"))
    cut(structure, rectangles(structure, (0, 2), (1, 2, 5))).model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    core = "encoder.layer.0.attention.self"
    config["quantization_config"]["attributes"] |= {
        f"{core}.num_attention_heads": heads,
        f"{core}.attention_head_size": width,
    }
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"sets encoder.layer.0.attention.self.\w+ to \d, which does not"):
        load_model(tmp_path)


def test_heads_that_would_differ_are_refused() -> None:
    structure = narrow(tiny_model("bert"))
    masks = structure.full_masks()
    masks["encoder.layer.0.attention"][0] = False
    with pytest.raises(InvalidOption, match=r"encoder.layer.0.attention must keep as many dimensions each, or none"):
        cut(structure, masks)


def test_turning_changes_nothing_that_is_computed(dense: PreTrainedModel) -> None:
    structure = narrow(dense)
    before = {name: value.clone() for name, value in structure.model.state_dict().items()}
    turn(Calibration(structure, [inputs(dense, (9, 5, 8), seed) for seed in range(6)], 0, staged(False, STAGES)))
    torch.testing.assert_close(outputs(structure.model, inputs(dense)), outputs(dense, inputs(dense)), **ROUNDED)
    changed = {name for name, value in structure.model.state_dict().items() if not torch.equal(value, before[name])}
    own = {path for site in structure if site.attends for path in (*(p.path for p in site.producers), site.consumer)}
    assert {name.removeprefix("base.") for name in changed} <= {
        f"{prefix}{path}.{kind}"
        for path in own
        for kind in ("weight", "bias")
        for prefix in ("", f"{dense.base_model_prefix}.")
    }
    assert changed


def test_surgeon_narrows_within_the_budget(dense: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrowing, "HEAD_OVERHEAD", 0)  # or heads of eight dimensions would all go first
    before = outputs(dense, inputs(dense))
    rows = [inputs(dense, (9, 5, 8), seed) for seed in range(8)]
    pruner = Pruner(dense, rows, progress=False)
    result = pruner.prune(Budget(flops=0.5))
    widths = {each.units["dimension"].kept for each in result.facts.units}
    assert widths & {2, 4, 6}, "a quarter of a head is the least step"
    assert widths <= {0, 2, 4, 6, 8}
    assert 0.4 < result.facts.kept["flops"] <= 0.5 * (1 + 1e-9)
    assert torch.equal(outputs(dense, inputs(dense)), before)


def test_the_same_sizes_in_every_layer_are_of_whole_heads() -> None:
    model = tiny_model("bert")
    rows = [inputs(model, (9, 5, 8), seed) for seed in range(8)]
    result = Pruner(model, rows, progress=False).prune(Budget(flops=0.8, uniform=True))
    assert all("dimension" not in each.units for each in result.facts.units)


def test_heads_asked_for_by_name_stay_whole() -> None:
    model = tiny_model("bert")
    pruner = Pruner(model, [inputs(model, (9, 5, 8), seed) for seed in range(8)], progress=False)
    result = pruner.prune(Budget(flops=0.5), Sizes(heads=2))
    assert all("dimension" not in each.units and each.units["head"].kept == 2 for each in result.facts.units)
    kept = pruner.prune(Budget(flops=0.5), Sizes(keep_layers="1"))
    assert (kept.facts.units[1].units["head"].kept, kept.facts.units[1].units["dimension"].kept) == (4, 8)


def test_describing_twice_is_no_harm() -> None:
    structure = narrow(tiny_model("bert"))
    masks = rectangles(structure, (0, 2), (1, 2))
    small = cut(structure, masks)
    before = dict(small.model.config.quantization_config.attributes)
    describe_cut(small, small.full_masks())
    assert small.model.config.quantization_config.attributes == before


ROWS = [(9, 5, 8)] * 8


def pruner_of(model: PreTrainedModel, **options: object) -> Pruner:
    batches = [inputs(model, lengths, seed) for seed, lengths in enumerate(ROWS)]
    return Pruner(model, batches, progress=False, **options)


def test_heads_of_a_width_can_be_asked_for_by_name(tmp_path: Path) -> None:
    model = tiny_model("bert")
    alone = pruner_of(model).prune(sizes=Sizes(heads="3x5"))
    assert [(each.units["head"].kept, each.units["dimension"].kept) for each in alone.facts.units] == [(3, 5)] * 2
    mixed = pruner_of(model).prune(Budget(flops=0.7), Sizes(heads="4,2x6"))
    assert [(each.units["head"].kept, each.units["dimension"].kept) for each in mixed.facts.units] == [(4, 8), (2, 6)]
    assert mixed.facts.kept["flops"] <= 0.7 * (1 + 1e-9)
    file = tmp_path / "sizes.json"
    file.write_text('{"0": {"heads": "1x7", "neurons": 10}, "1": "all"}', encoding="utf-8")
    by_file = pruner_of(model).prune(sizes=Sizes(sites=read_sizes(file)))
    assert [(s.units, s.unit_width) for s in read_structure(by_file.model)] == [(1, 7), (10, 1), (4, 8), (24, 1)]


def test_a_plan_and_its_file_give_the_model_that_pruning_gives() -> None:
    pruner = pruner_of(tiny_model("bert"))
    (planned,) = pruner.plan([Budget(flops=0.4)])
    result = pruner.prune(Budget(flops=0.4))
    assert planned.units == result.facts.units
    assert any("x" in str(sizes["heads"]) for sizes in planned.sites.values())
    by_file = pruner.prune(sizes=planned.sizes)
    assert by_file.facts.units == result.facts.units
    assert all(torch.equal(mask, by_file.masks[name]) for name, mask in result.masks.items())


@pytest.mark.parametrize(
    ("architecture", "method", "budget", "heads", "said"),
    [
        ("bert", "surgeon", None, "5x4", r"`heads=5x4` is more than .* has: it has 4 heads of 8 dimensions"),
        ("bert", "surgeon", None, "4x9", r"`heads=4x9` is more than"),
        (
            "bert",
            "surgeon",
            None,
            "2-3,2x4",
            r"`heads=2-3` is a range: beside heads of a width, give numbers such as 8 or",
        ),
        ("bert", "kprune", None, "2x4", "kprune keeps heads whole: give their number alone"),
        ("bert", "surgeon", Budget(flops=0.5, uniform=True), "2x4", "the same sizes in every layer, keeps heads whole"),
        ("bert", "surgeon", Budget(latency=0.5), "2x4", "a budget of time, .* keeps heads whole"),
        ("bert", "surgeon", None, "0x4", r"`heads=0x4` must be a number of units such as 8"),
        (
            "llama",
            "surgeon",
            None,
            "2x4",
            "heads of LlamaForSequenceClassification cannot be narrower: give their number, such as `heads=8`",
        ),
    ],
)
def test_heads_of_a_width_that_cannot_be_are_refused(
    architecture: str, method: str, budget: Budget | None, heads: str, said: str
) -> None:
    with pytest.raises(TrimformerError, match=said):
        pruner_of(tiny_model(architecture), method=method).prune(budget, Sizes(heads=heads))


@pytest.mark.parametrize(
    ("asked", "whole"),
    [
        ({"neurons": 12}, False),
        ({"sites": {"0": {"neurons": 12}}}, False),
        ({"sites": {"encoder.layer.1.ffn": {"keep": "0-3"}}}, False),
        ({"sites": {"0": "all"}}, False),
        ({"only": "heads"}, False),
        ({"sites": {"0": {"heads": 2}}}, True),
        ({"sites": {"encoder.layer.1.attention": 3}}, True),
    ],
    ids=str,
)
def test_only_heads_that_are_asked_for_stay_whole(asked: dict[str, Any], whole: bool) -> None:
    result = pruner_of(tiny_model("bert")).prune(Budget(flops=0.6), Sizes(**asked))
    assert all("dimension" in each.units for each in result.facts.units) is not whole


def test_a_budget_of_time_is_refused_beside_them_before_anything_is_timed() -> None:
    pruner = pruner_of(tiny_model("bert"))
    for ask in (pruner.check, pruner.plan):
        with pytest.raises(TrimformerError, match=r"a budget of time, .* keeps heads whole"):
            ask([Budget(latency=0.5)], Sizes(heads="2x4"))


def test_unreachable_sizes_are_refused_before_anything_is_measured() -> None:
    pruner = pruner_of(tiny_model("bert"))
    with pytest.raises(TrimformerError, match="uniform sizes within this budget"):
        pruner.prune(Budget(flops=0.2, uniform=True))
    assert "measured" not in vars(pruner)
