"""The same sizes in every layer: checkpoints that need no package at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from bare_python import without_the_package
from tiny_models import (
    CONFIGS,
    HEADS_PER_BLOCK,
    WHOLE_LAYERS,
    default_names,
    inputs,
    is_causal,
    main_head,
    outputs,
    random_masks,
    tiny_model,
)
from trimformer import plugins
from trimformer.data.rows import Batch
from trimformer.errors import InvalidOption, UnreachableTarget, UnsupportedModel
from trimformer.model.structure import Structure, read_structure
from trimformer.model.surgery import class_accepts, cut
from trimformer.pruning.budget import Budget
from trimformer.pruning.choose.bounds import Bounds
from trimformer.pruning.choose.curves import RemovalCurve
from trimformer.pruning.choose.search import remove_cheapest
from trimformer.pruning.once import prune
from trimformer.pruning.result import PruningResult

METHODS = [name for name, kind in plugins.provided("methods").items() if not kind.needs_labels]
WITHOUT_SIZES = ("bloom", "mpt", "lfm2")
"""Tiny models whose class computes its number of neurons from something else."""
LOAD = """
import sys
import torch, transformers
found, batch = {}, {"input_ids": torch.tensor([[5, 6, 7, 8, 9]])}
for folder in given:
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
    with torch.no_grad():
        found[folder] = model(**batch)[0].flatten().tolist()
assert "trimformer" not in sys.modules
"""


def head_of(name: str) -> str:
    return "language model" if is_causal(name) else main_head(name)


def rows(model: PreTrainedModel) -> list[Batch]:
    return [inputs(model, (12, 9, 11), seed=seed) for seed in range(8)]


def uniform(model: PreTrainedModel, flops: float = 0.85, method: str = "surgeon", **options: int) -> PruningResult:
    return prune(model, rows(model), budget=Budget(flops=flops, uniform=True, **options), method=method)


def sizes(structure: Structure) -> dict[str, set[int]]:
    return {kind: {site.units for site in structure if site.kind == kind} for kind in ("head", "neuron")}


@pytest.mark.parametrize("name", default_names())
def test_every_layer_keeps_as_many_units(name: str) -> None:
    model = tiny_model(name, head_of(name))
    if name in WITHOUT_SIZES:
        with pytest.raises(UnsupportedModel, match="has no config entry for its number of neurons"):
            uniform(model)
        return
    result = uniform(model)
    structure = read_structure(result.model)
    assert all(len(found) == 1 for found in sizes(structure).values())
    assert sum(site.units for site in structure) < sum(site.units for site in read_structure(model))
    assert result.manifest["budget"]["reached"] <= 0.85
    assert result.manifest["budget"]["uniform"] is True
    fewer_heads = "head" in structure.architecture.stock.values()
    assert fewer_heads or sizes(structure)["head"] == sizes(read_structure(model))["head"]
    assert fewer_heads or vars(result.model.config).keys() == vars(model.config).keys()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_every_method_prunes_uniformly(name: str, method: str) -> None:
    model = tiny_model(name, head_of(name))
    if method in WHOLE_LAYERS:
        with pytest.raises(InvalidOption, match=f"{method} removes whole layers"):
            uniform(model, method=method)
        return
    structure = read_structure(uniform(model, method=method).model)
    assert all(len(found) == 1 for found in sizes(structure).values())


@pytest.mark.parametrize(
    "names",
    [
        ("bert", "gpt2", "llama", "modernbert"),
        pytest.param(tuple(name for name in CONFIGS if name not in WITHOUT_SIZES), marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_uniform_checkpoints_load_without_the_package(names: tuple[str, ...], tmp_path: Path) -> None:
    expected = {}
    for name in names:
        folder = tmp_path / name.replace(" ", "-")
        small = uniform(tiny_model(name, head_of(name))).model
        small.save_pretrained(folder)
        with torch.no_grad():
            expected[str(folder)] = small(input_ids=torch.tensor([[5, 6, 7, 8, 9]]))[0].flatten()
        config = json.loads((folder / "config.json").read_text())
        assert not {"quantization_config", "auto_map"} & set(config)
        assert not list(folder.glob("*.py"))
    for folder, found in without_the_package(LOAD, list(expected), tmp_path).items():
        torch.testing.assert_close(torch.tensor(found), expected[folder], atol=1e-5, rtol=0)


def test_fewer_heads_are_kept_where_the_class_can_have_them() -> None:
    small = uniform(tiny_model("qwen2", "language model"), flops=0.4).model
    (heads,) = sizes(read_structure(small))["head"]
    assert heads < HEADS_PER_BLOCK
    assert (small.config.num_key_value_heads, small.config.num_attention_heads) == (heads, 2 * heads)
    assert small.config.head_dim == 4
    assert pruned_again(small).config.num_key_value_heads <= heads


@pytest.mark.parametrize(("heads", "can"), [(1, True), (2, True), (3, False), (4, True)])
def test_a_class_accepts_what_its_config_does(heads: int, can: bool) -> None:
    """Llama's width, 32 here, must be a multiple of its query heads, two for each of `heads`."""
    model = tiny_model("llama", "language model")
    before = model.config.to_dict()
    if not hasattr(model.config, "validate"):
        pytest.skip("configs of this version of transformers have no rules")
    assert class_accepts(read_structure(model), heads) is can
    assert model.config.to_dict() == before


def pruned_again(model: PreTrainedModel) -> PreTrainedModel:
    return uniform(model, flops=0.9).model


def test_neurons_come_in_multiples() -> None:
    (neurons,) = sizes(read_structure(uniform(tiny_model("llama", "language model"), round_to=8).model))["neuron"]
    assert neurons % 8 == 0


def test_the_whole_budget_changes_nothing() -> None:
    model = tiny_model("llama", "language model")
    small = prune(
        model, rows(model), budget=Budget(flops=1.0, uniform=True), method="magnitude", options={"tune": False}
    ).model
    assert torch.equal(outputs(small, inputs(model)), outputs(model, inputs(model)))


def test_rounding_of_measured_times_loses_no_unit() -> None:
    """A limit that is met exactly, by tables as long as those of a large encoder."""
    generator = torch.Generator().manual_seed(3)
    times = torch.cat([torch.zeros(1), torch.rand(4096, generator=generator)]).double().cumsum(0)
    tables = {f"block {index}": times for index in range(24)}
    counts = dict.fromkeys(tables, 1365)
    curve = RemovalCurve(torch.arange(4096), torch.rand(4096, generator=generator).double().sort().values)
    limit = sum(float(times[count]) for count in counts.values())
    masks = remove_cheapest(dict.fromkeys(tables, curve), tables, limit, Bounds(counts, counts))
    assert {int(mask.sum()) for mask in masks.values()} == {1365}


def test_what_cannot_be_uniform_is_refused() -> None:
    with pytest.raises(UnreachableTarget, match="would leave no neuron"):
        uniform(tiny_model("gpt2", "language model"), flops=0.3)
    uneven = read_structure(tiny_model("llama", "language model"))
    with pytest.raises(UnsupportedModel, match="layers of this model already differ"):
        uniform(cut(uneven, random_masks(uneven)).model)
