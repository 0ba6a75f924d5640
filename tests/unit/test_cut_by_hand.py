"""Units of one's own choice: cut as they are masked, the model given untouched, and what does not fit refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import trimformer
from tiny_models import inputs, outputs, parameters_by_name, tiny_model
from trimformer.errors import InvalidOption, UnsupportedModel
from trimformer.model.masking import masked
from trimformer.model.surgery import pruning_config, write_consumer

HEADS, NEURONS = "layers.0.attention", "layers.1.ffn"
KEPT: dict[str, Any] = {HEADS: [3, 0], NEURONS: [index % 3 == 0 for index in range(24)]}


@pytest.mark.parametrize(
    "kept",
    [
        KEPT,
        {name: torch.as_tensor(own) for name, own in KEPT.items()},
        {name: np.asarray(own) for name, own in KEPT.items()},
        {HEADS: torch.tensor([True, False, False, True]), NEURONS: range(0, 24, 3)},
    ],
)
def test_the_cut_model_computes_what_the_masked_one_does(kept: dict[str, Any]) -> None:
    model = tiny_model("llama")
    before, structure = parameters_by_name(model), trimformer.read_structure(model)
    small = trimformer.cut(model, kept)
    masks = structure.full_masks()
    masks[HEADS] = torch.tensor([True, False, False, True])
    masks[NEURONS] = torch.tensor(KEPT[NEURONS])
    assert [site.units for site in trimformer.read_structure(small)] == [int(mask.sum()) for mask in masks.values()]
    with masked(structure, masks):
        expected = outputs(model, inputs(model))
    torch.testing.assert_close(outputs(small, inputs(model)), expected, atol=1e-5, rtol=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not hasattr(model.config, "quantization_config")


def test_the_config_says_what_was_cut_and_nothing_of_the_rest() -> None:
    cut = pruning_config(trimformer.read_structure(trimformer.cut(tiny_model("llama"), KEPT)))
    assert cut.kept == {HEADS: [0, 3], NEURONS: list(range(0, 24, 3))}
    assert cut.units == {HEADS: 4, NEURONS: 24}
    assert {path.rpartition(".")[0] for path in cut.linears} == {"layers.0.self_attn", "layers.1.mlp"}
    assert not cut.biases
    assert not cut.query_heads
    assert not cut.cached
    assert not hasattr(trimformer.cut(tiny_model("llama"), {HEADS: range(4)}).config, "quantization_config")


def test_the_config_says_how_many_heads_a_cache_holds_where_these_are_not_the_units() -> None:
    small = trimformer.cut(tiny_model("falcon in groups", "language model"), {"h.0.attention": [0]})
    with torch.no_grad():
        cache = small(torch.arange(5, 9)[None], use_cache=True).past_key_values
    cached = {
        name: cache.layers[int(name.split(".")[-2])].keys.shape[1]
        for name in pruning_config(trimformer.read_structure(small)).cached
    }
    assert cached == pruning_config(trimformer.read_structure(small)).cached == {"h.0.attention": 2}


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_a_consumer_gets_the_weight_and_the_bias_that_it_is_given(architecture: str) -> None:
    structure = trimformer.read_structure(tiny_model(architecture))
    site = structure.sites[0]
    weight, bias = torch.rand_like(structure.consumer_weight(site)), torch.rand(site.width)
    write_consumer(structure, site, weight, bias)
    write_consumer(structure, site, 2 * weight, None)
    assert torch.equal(structure.consumer_weight(site), 2 * weight)
    assert torch.equal(structure.consumer_bias(site), bias)


def test_a_model_is_cut_in_place_where_asked() -> None:
    model = tiny_model("bert")
    assert trimformer.cut(model, {"encoder.layer.0.attention": []}, in_place=True) is model
    assert [site.units for site in trimformer.read_structure(model)] == [0, 24, 4, 24]


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"layers.0.attn": [0]}, "unknown sublayer 'layers.0.attn'. Did you mean 'layers.0.attention'"),
        ({HEADS: [4]}, "has 4 heads, each of 2 query heads with their key and value head: give a bool for each"),
        ({HEADS: [-1]}, "the numbers from 0 to 3 of those that stay"),
        ({HEADS: [1, 1]}, "each once; got numbers outside of these, or twice the same"),
        ({HEADS: [True, False]}, "got 2 bools"),
        ({HEADS: torch.rand(4)}, "got numbers of type torch.float32"),
        ({HEADS: torch.ones(2, 2, dtype=torch.bool)}, r"got a tensor of shape \(2, 2\)"),
        ({HEADS: 3}, r"got a tensor of shape \(\)"),
        ({HEADS: "0,1"}, "layers.0.attention has 4 heads"),
        ({HEADS: {0, 1}}, "layers.0.attention has 4 heads"),
        ([1, 2], r"kept=\[1, 2\]` must be the units that stay, by name of a sublayer"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_nothing_is_cut(kept: Any, said: str) -> None:
    model = tiny_model("llama")
    for other in (kept, {NEURONS: [0]} | kept if isinstance(kept, dict) else kept):
        with pytest.raises(InvalidOption, match=said) as error:
            trimformer.cut(model, other, in_place=True)
        assert "\n" not in str(error.value)
    assert [site.units for site in trimformer.read_structure(model)] == [4, 24, 4, 24]


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no transformers model"):
        trimformer.cut(torch.nn.Linear(2, 2), {})  # type: ignore[arg-type]
