"""Query heads inside a key/value group: moving them changes nothing, and the chosen ones are cut as if masked."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tiny_models import WHOLE_LAYERS, inputs, labelled, outputs, tiny_model
from trimformer import Budget, Sizes, plugins, prune
from trimformer.data.labels import pad_labels
from trimformer.errors import InvalidOption, UnsupportedModel
from trimformer.model.masking import feature_mask, masked
from trimformer.model.query_heads import one_by_one
from trimformer.model.sites import Masks, Site
from trimformer.model.slots import order_query_heads, read_by_slot
from trimformer.model.structure import Structure, read_structure
from trimformer.model.surgery import cut, pruning_config
from trimformer.pruning.contract import JudgesUnits
from trimformer.pruning.method_options import make_method

GROUPS, EACH, WIDTH = 4, 3, 8
GROUPED = {"num_attention_heads": GROUPS * EACH, "num_key_value_heads": GROUPS, "hidden_size": GROUPS * EACH * WIDTH}
FAMILIES = ("llama", "phi3", "qwen3_5_text")
"""Separate projections, fused ones, and gated queries."""
OTHERS = (
    *("eurobert", "mistral", "qwen2", "qwen3", "gemma", "phi", "cohere", "stablelm", "lfm2", "gemma2", "gemma3_text"),
    *("smollm3", "olmo", "helium", "seed_oss", "ministral", "ministral3", "hunyuan_v1_dense", "ernie4_5", "vaultgemma"),
    *("cwm", "cohere2", "exaone4", "granite", "starcoder2", "nemotron", "arcee", "apertus", "jais2", "nanochat"),
    *("glm", "glm4"),
)
every_family = pytest.mark.parametrize(
    "name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
METHODS = plugins.names("methods")
JUDGING = [n for n in METHODS if n not in WHOLE_LAYERS and isinstance(make_method(n, {}), JudgesUnits)]
DEAD = torch.tensor([[False, True, False], [True, False, False], [False, False, True], [False, True, False]])
"""Query heads that add nothing, `(groups, each)`."""


def grouped(name: str = "llama", head: str | None = None, **options: Any) -> PreTrainedModel:
    return tiny_model(name, head, **{**GROUPED, "head_dim": WIDTH, **options})


def of_attention(structure: Structure) -> list[Site]:
    return [site for site in structure if site.attends]


def mixed(model: PreTrainedModel) -> Structure:
    """A copy by slot, its query heads at random places of their groups."""
    structure = read_by_slot(read_structure(model)).copied()
    torch.manual_seed(1)
    order_query_heads(structure, {site.name: torch.rand(GROUPS * EACH) for site in of_attention(structure)})
    return structure


def fewer(structure: Structure) -> Masks:
    """Two slots in the first attention, one above, and half of the neurons."""
    masks = structure.full_masks()
    for site in structure:
        masks[site.name] = torch.arange(site.units) % (2 if not site.attends or site.block else 3) != 1
    return masks


def few_rows(head: str) -> list[dict[str, Tensor]]:
    found = []
    for seed in range(3):
        batch = inputs(grouped(), (12, 9, 11), seed=seed)
        labels = labelled([{"input_ids": row} for row in batch["input_ids"].tolist()], head)
        found.append(batch | pad_labels(labels, "cpu"))
    return found


@every_family
def test_what_is_cut_is_what_was_masked(name: str) -> None:
    model = grouped(name)
    structure, batch = mixed(model), inputs(model)
    dense = outputs(model, batch)
    torch.testing.assert_close(outputs(structure.model, batch), dense, atol=2e-5, rtol=0)
    masks = fewer(structure)
    with masked(structure, masks):
        expected = outputs(structure.model, batch)
    assert (expected - dense).abs().max() > 0.1
    small = cut(structure.copied(), masks).model
    torch.testing.assert_close(outputs(small, batch), expected, atol=1e-5, rtol=0)
    small.set_attn_implementation("eager")
    torch.testing.assert_close(outputs(small, batch)[: len(expected)], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cache_changes_no_generated_token(name: str) -> None:
    model = grouped(name, "language model")
    structure = mixed(model)
    batch = {key: values.flip(1) for key, values in inputs(model).items()}
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "repetition_penalty": 5.0}
    with masked(structure, fewer(structure)):
        expected = structure.model.generate(**batch, use_cache=False, **options)
    small = cut(structure, fewer(structure)).model
    assert expected[:, -8:].unique().numel() > 8
    static = [] if name == "qwen3_5_text" else [{"cache_implementation": "static"}]
    for cached in ({}, {"use_cache": False}, {"num_beams": 1}, *static):
        assert torch.equal(small.generate(**batch, **options, **cached), expected), cached


@pytest.mark.parametrize("name", FAMILIES)
def test_cut_again_by_groups_and_by_slots_all_weights_are_where_the_config_says(name: str, tmp_path: Path) -> None:
    model = grouped(name)
    once = cut(mixed(model), fewer(mixed(model))).model
    once.save_pretrained(tmp_path)
    loaded = type(once).from_pretrained(tmp_path).eval()
    assert torch.equal(outputs(loaded, inputs(model)), outputs(once, inputs(model)))
    by_group = read_structure(loaded)
    masks = by_group.full_masks() | {site.name: torch.arange(GROUPS) != 1 for site in of_attention(by_group)}
    twice = cut(by_group, masks)
    by_slot = read_by_slot(twice)
    last = by_slot.full_masks() | {site.name: torch.arange(site.units) < 1 for site in of_attention(by_slot)}
    with masked(by_slot, last):
        expected = outputs(by_slot.model, inputs(model))
    small = cut(by_slot, last)
    torch.testing.assert_close(outputs(small.model, inputs(model)), expected, atol=1e-5, rtol=0)
    config, dense = pruning_config(small), read_structure(model)
    for site in of_attention(small):
        assert config.kept[site.name] == [0, 2, 3]
        assert config.units[site.name] == GROUPS
        heads = config.query_heads[site.name]
        assert [head // EACH for head in heads] == [0, 2, 3]
        original = dense.consumer_weight(site).reshape(GROUPS * EACH, WIDTH, -1)[heads].flatten(0, 1)
        assert torch.equal(small.consumer_weight(site), original)


def test_slots_can_be_cut_before_query_heads_were_put_in_order(tmp_path: Path) -> None:
    structure = read_by_slot(read_structure(grouped()))
    masks, batch = fewer(structure), inputs(structure.model)
    with masked(structure, masks):
        expected = outputs(structure.model, batch)
    small = cut(structure.copied(), masks).model
    small.save_pretrained(tmp_path)
    torch.testing.assert_close(outputs(type(small).from_pretrained(tmp_path).eval(), batch), expected)
    kept = pruning_config(read_structure(small)).query_heads
    assert kept == {
        site.name: [head for head in range(GROUPS * EACH) if masks[site.name][head % EACH]]
        for site in of_attention(structure)
    }


@pytest.mark.slow
def test_the_stored_loader_gives_the_same_bits(tmp_path: Path) -> None:
    program = (
        "import sys, json, torch\nsys.modules['trimformer'] = None\nfrom transformers import AutoModelForCausalLM\n"
        "ids = torch.arange(5, 25)[None]\nfor path in sys.argv[1:]:\n"
        "    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)\n"
        "    print(json.dumps(model(input_ids=ids).logits.flatten().tolist()))\n"
    )
    folders, expected = [], []
    for name in FAMILIES:
        structure = mixed(grouped(name, "language model"))
        small = cut(structure, fewer(structure)).model
        small.save_pretrained(tmp_path / name)
        folders.append(str(tmp_path / name))
        expected.append(small(input_ids=torch.arange(5, 25)[None]).logits.flatten().tolist())
    there = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", program, *folders], capture_output=True, text=True, env=there, check=False
    )
    assert run.returncode == 0, run.stderr
    assert [json.loads(line) for line in run.stdout.splitlines()] == expected


def test_the_best_of_every_group_stay() -> None:
    """By magnitude, as counted by hand; the model is the dense one with the others masked one by one."""
    model = grouped()
    result = prune(model, few_rows("sequence classification"), method="magnitude", sizes=Sizes(query_heads=[8, 4]))
    singly = read_structure(model, one_by_one(read_by_slot(read_structure(model)).architecture))
    for site, stays in zip(of_attention(singly), (2, 1), strict=True):
        squares = singly.consumer_weight(site).square().reshape(GROUPS, EACH, -1).sum(2)
        best = squares.topk(stays, dim=1).indices
        by_hand = torch.zeros(GROUPS, EACH, dtype=torch.bool).scatter(1, best, True)  # torch's own
        assert torch.equal(result.masks[site.name], by_hand.flatten())
        kept = pruning_config(read_structure(result.model)).query_heads[site.name]
        assert sorted(kept) == by_hand.flatten().nonzero()[:, 0].tolist()
    with masked(singly, result.masks):
        expected = outputs(model, inputs(model))
    torch.testing.assert_close(outputs(result.model, inputs(model)), expected, atol=1e-5, rtol=0)
    assert [facts.units["head"].kept for facts in result.facts.units] == [8, 4]


@pytest.mark.parametrize("method", JUDGING)
def test_query_heads_that_add_nothing_go_first(method: str) -> None:
    """Wherever they are in their groups; and the chosen sizes are the model's."""
    model = grouped()
    dense = read_structure(model)
    with torch.no_grad():
        for site in of_attention(dense):
            dense.consumer_weight(site).reshape(GROUPS * EACH, WIDTH, -1)[DEAD.flatten()] = 0.0
    result = prune(model, few_rows("sequence classification"), method=method, sizes=Sizes(query_heads="8"))
    for site in of_attention(dense):
        assert method == "random" or torch.equal(result.masks[site.name], ~DEAD.flatten()), method
    small = of_attention(read_structure(result.model))
    assert [(site.units, site.query_heads) for site in small] == [(GROUPS, 2)] * 2
    assert torch.isfinite(outputs(result.model, inputs(model))).all()
    assert torch.equal(outputs(model, inputs(model)), outputs(copy.deepcopy(model), inputs(model)))


@pytest.mark.parametrize("method", ["surgeon", "kprune"])
def test_a_budget_decides_within_a_range(method: str) -> None:
    rows = few_rows("sequence classification")
    result = prune(grouped(), rows, method=method, sizes=Sizes(query_heads="4-12"), budget=Budget(flops=0.6))
    assert result.facts.budget.reached <= 0.6
    kept = [facts.units["head"].kept for facts in result.facts.units]
    assert all(4 <= count <= 12 and count % GROUPS == 0 for count in kept)
    with_base = prune(grouped(), rows, method=method, sizes=Sizes(query_heads="4-12"), budget=Budget(params=0.9))
    assert sum(facts.units["head"].kept for facts in with_base.facts.units) >= sum(kept)


def test_uniform_sizes_are_those_of_the_class(tmp_path: Path) -> None:
    model = grouped()
    sizes = Sizes(query_heads=8, uniform=True)
    result = prune(model, few_rows("sequence classification"), method="magnitude", sizes=sizes)
    assert not hasattr(result.model.config, "quantization_config")
    assert (result.model.config.num_attention_heads, result.model.config.num_key_value_heads) == (8, GROUPS)
    result.model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(outputs(loaded, inputs(model)), outputs(result.model, inputs(model)))


def test_features_are_arranged_by_unit() -> None:
    (site, _) = of_attention(read_by_slot(read_structure(grouped())))
    by_unit = site.by_unit(feature_mask(site, torch.arange(EACH)))
    assert torch.equal(by_unit, torch.arange(EACH).repeat_interleave(site.unit_width))
    features = torch.arange(site.features).reshape(1, -1, 1)
    assert site.by_unit(features, axis=1)[0, :WIDTH, 0].tolist() == list(range(WIDTH))
    assert site.by_unit(features, axis=1)[0, WIDTH, 0] == EACH * WIDTH


@pytest.mark.parametrize(
    ("asked", "method", "message"),
    [
        ({"query_heads": 9}, "surgeon", r"no multiple of the 4 key/value heads of layers.0.attention: .* steps of 4"),
        ({"query_heads": 16}, "surgeon", "more than layers.0.attention has: layers 0 to 1 can have 0 to 12 in steps"),
        ({"query_heads": 8, "heads": 2}, "surgeon", "`heads` and `query_heads` are sizes of the same layers"),
        ({"query_heads": 8}, "dual_cp", "dual_cp does not tell what single query heads are worth"),
        ({"query_heads": 8}, "kcm", "kcm does not tell what single query heads are worth"),
        ({"sites": {"0": {"query_heads": 8}, "1": {"heads": 2}}}, "surgeon", "Did you mean 'query_heads'"),
        ({"sites": {"0": {"query_heads": {"keep": "1"}}}}, "surgeon", "leave out `keep`"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(asked: dict[str, Any], method: str, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        prune(grouped(), few_rows("sequence classification"), method=method, sizes=Sizes(**asked))


@pytest.mark.parametrize("name", ["olmo2", "falcon in groups"])
def test_attention_that_cannot_do_it_says_so(name: str) -> None:
    model = tiny_model(name)
    with pytest.raises(UnsupportedModel, match=r"query heads of .*attention cannot go one by one"):
        prune(model, few_rows("sequence classification"), sizes=Sizes(query_heads=4))


def test_without_groups_a_query_head_is_a_head() -> None:
    model = tiny_model("llama without groups")
    results = [
        prune(model, few_rows("sequence classification"), method="magnitude", sizes=sizes)
        for sizes in (Sizes(heads=2), Sizes(query_heads=2))
    ]
    for name, mask in results[0].masks.items():
        assert torch.equal(mask, results[1].masks[name])
