"""What every decoder promises: generation with a cache, tied embeddings, and checkpoints that give both back."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel, StaticCache

from bare_python import without_the_package
from conftest import asked, build_tokenizer
from tiny_models import (
    CONFIGS,
    FAMILIES,
    SIBLINGS,
    config_of,
    default_names,
    heads_of,
    inputs,
    is_causal,
    outputs,
    random_masks,
    tiny_model,
)
from trimformer.data.batches import pad
from trimformer.data.rows import Batch
from trimformer.errors import CheckpointError, DataError, InvalidOption, UnsupportedModel
from trimformer.judging.evaluation import outputs_by_row
from trimformer.model.checkpoint import load_model
from trimformer.model.description import Attention
from trimformer.model.limits import most_tokens
from trimformer.model.masking import masked
from trimformer.model.query_heads import by_dimension
from trimformer.model.sites import Masks
from trimformer.model.slots import read_by_dimension
from trimformer.model.structure import Structure, find_architecture, read_structure
from trimformer.model.surgery import cut, pruning_config
from trimformer.model.trimformer_checks import WIDTHS
from trimformer.pruning.budget import Budget
from trimformer.pruning.choose.narrowing import rectangle
from trimformer.pruning.once import prune

DECODERS = [name for name in CONFIGS if is_causal(name)]
CLASSIFIERS = [name for name in DECODERS if "sequence classification" in heads_of(name)]
NEW_TOKENS = 8
WITHOUT_STATIC_CACHE = ("gpt_neo", "falcon with alibi")
"""Decoders whose class fails with a static cache, or gives other tokens, before anything is pruned."""


def without_heads(*blocks: int) -> Callable[[Structure], Masks]:
    """Random masks, uneven from block to block, without any head in some blocks."""

    def choose(structure: Structure) -> Masks:
        emptied = {site.name for site in structure if site.kind == "head" and site.block in blocks}
        return {name: mask & (name not in emptied) for name, mask in random_masks(structure, seed=4).items()}

    return choose


WEIGHTS_TO_REFIT = dict.fromkeys(("olmo3", "lfm2", "granite", "cohere", "cohere2"), 1)
"""Decoders whose random weights no few rows can refit for unseen ones, by the seed of some that more rows can."""

MASKS: dict[str, Callable[[Structure], Masks]] = {
    "uneven": without_heads(),
    "no heads in the first block": without_heads(0),
    "no heads": without_heads(0, 1),
    "nothing kept": lambda structure: {site.name: torch.zeros(site.units, dtype=torch.bool) for site in structure},
}

every_decoder = pytest.mark.parametrize("name", default_names(DECODERS))


def some(others: Iterable[str]) -> list[Any]:
    """Every decoder by other things: one a family with all, further layouts with one in turn, the rest is slow."""
    names = list(others)
    layouts = [name for name in DECODERS if name not in (*FAMILIES, *SIBLINGS)]
    turn = {name: names[place % len(names)] for place, name in enumerate(layouts)}
    return asked(
        pytest.param(decoder, name, marks=[] if decoder in FAMILIES or turn.get(decoder) == name else pytest.mark.slow)
        for decoder in DECODERS
        for name in names
    )


def language_model(name: str, **config: object) -> PreTrainedModel:
    return tiny_model(name, "language model", **config)


def pruned(model: PreTrainedModel, choose: Callable[[Structure], Masks] = MASKS["uneven"]) -> PreTrainedModel:
    structure = read_structure(copy.deepcopy(model))
    return cut(structure, choose(structure)).model


def left_padded(model: PreTrainedModel) -> Batch:
    return {name: values.flip(1) for name, values in inputs(model).items()}


def generated(model: PreTrainedModel, batch: Batch, **options: object) -> Tensor:
    """New tokens of greedy search, always as many; hardly any twice, or random weights would soon repeat one."""
    length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    settings = {**length, "do_sample": False, "repetition_penalty": 5.0, **options}
    return model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]


@pytest.mark.parametrize(("name", "mask"), some(MASKS))
def test_cut_model_generates_what_the_masked_one_does(name: str, mask: str) -> None:
    model, choose = language_model(name), MASKS[mask]
    structure, batch = read_structure(model), left_padded(model)
    small = pruned(model, choose)
    with masked(structure, choose(structure)):
        expected = generated(model, batch, use_cache=False)
    assert expected.unique().numel() > NEW_TOKENS
    static = [] if name in WITHOUT_STATIC_CACHE else [{"cache_implementation": "static"}]
    for options in ({}, {"use_cache": False}, *static):
        assert torch.equal(generated(small, batch, **options), expected), options


def has_narrower_heads(name: str) -> bool:
    described = find_architecture(config_of(name))
    chains = by_dimension(described).chains if described else ()
    return any(isinstance(each, Attention) and each.by_dimension for chain in chains for each in chain.sublayers)


NARROWING = [name for name in DECODERS if has_narrower_heads(name)]


def with_narrower_heads(name: str) -> tuple[Structure, Masks]:
    """Two heads of three dimensions in the first block, three of two in the second."""
    structure = read_by_dimension(read_structure(language_model(name)))
    masks, generator = structure.full_masks(), torch.Generator().manual_seed(0)
    for site, (heads, width) in zip((site for site in structure if site.head_width), ((2, 3), (3, 2)), strict=True):
        order = torch.randperm(site.units, generator=generator)
        masks[site.name] = rectangle(order, site.head_width, (heads, width))
    return structure, masks


@pytest.mark.parametrize("name", NARROWING)
def test_a_model_with_narrower_heads_generates_what_the_masked_one_does(name: str) -> None:
    (structure, masks), batch = with_narrower_heads(name), left_padded(language_model(name))
    with masked(structure, masks):
        expected = generated(structure.model, batch, use_cache=False)
    assert expected.unique().numel() > NEW_TOKENS
    small = cut(*with_narrower_heads(name)).model
    static = [] if name in WITHOUT_STATIC_CACHE else [{"cache_implementation": "static"}]
    for options in ({}, {"use_cache": False}, *static):
        assert torch.equal(generated(small, batch, **options), expected), options


@every_decoder
def test_beam_search_reorders_the_cache_of_empty_attention_too(name: str) -> None:
    model = language_model(name)
    structure, batch, choose = read_structure(model), left_padded(model), MASKS["no heads in the first block"]
    with masked(structure, choose(structure)):
        expected = generated(model, batch, num_beams=3)
    assert torch.equal(generated(pruned(model, choose), batch, num_beams=3), expected)


@every_decoder
def test_left_padding_changes_no_generated_token(name: str) -> None:
    small = pruned(language_model(name), MASKS["no heads in the first block"])
    batch = left_padded(small)
    together = generated(small, batch)
    for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)):
        alone = {"input_ids": ids[mask][None], "attention_mask": mask[mask][None].long()}
        assert torch.equal(generated(small, alone)[0], together[row])


@every_decoder
def test_tokens_come_one_by_one_as_at_once(name: str) -> None:
    """Logits with a cache that grows token by token are those of the whole sequence."""
    small = pruned(language_model(name), MASKS["no heads in the first block"])
    ids = inputs(small, (12,))["input_ids"]
    cache = DynamicCache(config=small.config)
    with torch.no_grad():
        whole = small(input_ids=ids, use_cache=False).logits
        steps = [small(input_ids=ids[:, t : t + 1], past_key_values=cache).logits for t in range(ids.shape[1])]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-5)
    assert cache.get_seq_length() == ids.shape[1]


@every_decoder
def test_a_cache_made_for_even_heads_is_refused(name: str) -> None:
    small = pruned(language_model(name), MASKS["no heads in the first block"])
    cache = StaticCache(config=small.config, max_cache_len=40)
    cache.early_initialization(batch_size=3, num_heads=4, head_dim=4, dtype=torch.float32, device="cpu")
    with pytest.raises(ValueError, match=r"the cache was made for 4 key and value heads in layer \d, which has"):
        generated(small, left_padded(small), past_key_values=cache)


@pytest.mark.parametrize("tied", [True, False])
@every_decoder
def test_tied_embeddings_stay_tied(name: str, tied: bool, tmp_path: Path) -> None:
    small = pruned(language_model(name, tie_word_embeddings=tied))
    small.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for model in (small, loaded):
        embeddings, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert (embeddings.data_ptr() == output.data_ptr()) == tied
    torch.testing.assert_close(outputs(loaded, inputs(small)), outputs(small, inputs(small)), atol=1e-6, rtol=0)
    assert torch.equal(generated(loaded, left_padded(small)), generated(small, left_padded(small)))


@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize(
    "name", default_names(name for name in DECODERS if "sequence classification" in heads_of(name))
)
def test_classifiers_need_the_padding_that_they_know(name: str, padding: int | None) -> None:
    if (name, padding) == ("modernbert-decoder", None):
        pytest.skip("its config must have a padding id")
    model = tiny_model(name, "sequence classification", pad_token_id=padding)
    rows = [{"input_ids": list(range(5, 5 + length))} for length in (12, 3, 7)]
    for data in (rows, [pad(rows, None, "cpu")]):
        with pytest.raises(DataError, match=f"model.config.pad_token_id, which is {padding}, and rows are padded with"):
            prune(model, data, budget=Budget(flops=0.5), calibration_tokens=None)
    tokenizer = build_tokenizer()
    with pytest.raises(DataError, match="set it and the tokenizer's pad_token to the same token"):
        outputs_by_row(model, tokenizer, rows, lambda output, _: {"logits": output.logits})
    prune(model, [pad(rows[:1], None, "cpu")], budget=Budget(flops=0.5))


USE = """
import sys
import torch
from transformers import AutoModelForCausalLM
found = {}
for folder in given:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.tensor([[5, 6, 7, 8]])
    length = {"max_new_tokens": 8, "min_new_tokens": 8}
    found[folder] = model.generate(ids, do_sample=False, repetition_penalty=5.0, **length)[0, 4:].tolist()
assert "trimformer" not in sys.modules
"""


@pytest.mark.parametrize(
    "names",
    [[name for name in DECODERS if name not in SIBLINGS], pytest.param(DECODERS, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_it_is_generated_without_the_package_too(names: list[str], tmp_path: Path) -> None:
    """With the package, loaded models generate in other tests of this file."""
    expected: dict[str, list[int]] = {}
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    for name in names:
        folder = tmp_path / name.replace(" ", "-")
        small = pruned(language_model(name), MASKS["no heads in the first block"])
        small.save_pretrained(folder)
        expected[str(folder)] = generated(small, batch)[0].tolist()
    assert without_the_package(USE, list(expected), tmp_path) == expected


def test_models_with_narrower_heads_generate_without_the_package_too(tmp_path: Path) -> None:
    expected: dict[str, list[int]] = {}
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    for name in NARROWING:
        folder, small = tmp_path / name.replace(" ", "-"), cut(*with_narrower_heads(name)).model
        small.save_pretrained(folder)
        expected[str(folder)] = generated(small, batch)[0].tolist()
    assert without_the_package(USE, list(expected), tmp_path) == expected


@pytest.mark.parametrize("name", NARROWING)
def test_another_width_of_its_heads_is_refused(name: str, tmp_path: Path) -> None:
    cut(*with_narrower_heads(name)).model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    sizes = config["quantization_config"]["attributes"]
    sizes[next(path for path in sizes if path.endswith(WIDTHS))] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit its projections"):
        load_model(str(tmp_path))


@every_decoder
def test_a_refitted_consumer_gets_a_bias_that_is_saved(name: str, tmp_path: Path) -> None:
    model = language_model(name)
    rows = [inputs(model, (9, 12, 7), seed=seed) for seed in range(6)]
    small = prune(model, rows, budget=Budget(flops=0.6), options={"epochs": 0}).model
    assert all(read_structure(small).consumer_bias(site) is not None for site in read_structure(small))
    dense_biases = {site.consumer for site in read_structure(model) if site.consumer_bias}
    assert set(pruning_config(read_structure(small)).biases) == {
        site.consumer for site in read_structure(model) if site.consumer not in dense_biases
    }
    small.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == small.state_dict().keys()
    assert torch.equal(outputs(copy.deepcopy(loaded), inputs(model)), outputs(small, inputs(model)))
    again = prune(loaded, rows, budget=Budget(flops=0.6), options={"epochs": 0}).model
    assert pruning_config(read_structure(again)).biases == pruning_config(read_structure(small)).biases
    assert all(parameter.requires_grad for parameter in again.parameters())


@every_decoder
def test_the_refit_brings_the_prediction_nearer(name: str) -> None:
    """The residual stream is repaired at the right place, whatever the block's norms and order."""
    model = language_model(name, seed=WEIGHTS_TO_REFIT.get(name, 0))
    rows = [inputs(model, (14, 12, 9), seed=seed) for seed in range(48 if name in WEIGHTS_TO_REFIT else 12)]
    far = {}
    for tune in (False, True):
        small = prune(model, rows, budget=Budget(flops=0.7), method="magnitude", options={"tune": tune}).model
        unseen = inputs(model, (13, 13), seed=99)
        far[tune] = float((outputs(small, unseen) - outputs(model, unseen)).square().mean())
    assert far[True] < far[False]


@pytest.mark.parametrize(("name", "method"), some(["surgeon", "kprune"]))
def test_neither_padding_nor_batches_change_what_is_pruned(name: str, method: str) -> None:
    """Rows alone, together with padding at the right, and at the left with the positions that generation gives them."""
    model = language_model(name)
    lengths = (12, 5, 9, 7, 11, 8)
    together = inputs(model, lengths)
    alone = [
        {key: values[row : row + 1, :length] for key, values in together.items()} for row, length in enumerate(lengths)
    ]
    left = {
        key: torch.stack([values[row].roll(12 - n) for row, n in enumerate(lengths)])
        for key, values in together.items()
    }
    left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    results = [
        prune(model, batches, budget=Budget(flops=0.6), method=method, calibration_tokens=None)
        for batches in (alone, [together], [left])
    ]
    for other in results[1:]:
        assert all(torch.equal(mask, other.masks[site]) for site, mask in results[0].masks.items())
        for parameter, value in results[0].model.state_dict().items():
            torch.testing.assert_close(other.model.state_dict()[parameter], value, atol=5e-3, rtol=0)


@pytest.mark.parametrize("name", default_names(["gemma3_text with one key and value head", "olmo2", "glm4"]))
def test_nothing_is_added_behind_a_norm_where_no_unit_is_left(name: str) -> None:
    """The norm would give a mean, however small, the size of all that is added."""
    model = language_model(name)
    rows = [inputs(model, (14, 12, 9), seed=seed) for seed in range(4)]
    result = prune(model, rows, budget=Budget(flops=0.1), method="magnitude", options={"tune": True})
    structure = read_structure(result.model)
    emptied = [site for site in structure if not site.units]
    assert emptied
    for site in emptied:
        assert torch.count_nonzero(structure.consumer_bias(site)) == 0, site.name


def test_masks_that_split_a_group_are_refused() -> None:
    structure = read_structure(language_model("llama"))
    site = structure.sites[0]
    assert (site.units, site.query_heads) == (4, 2)
    by_query_head = structure.full_masks() | {site.name: torch.ones(8, dtype=torch.bool)}
    with pytest.raises(InvalidOption, match="one entry for every 2 query heads that share a key and value head"):
        cut(structure, by_query_head)


def test_models_that_are_built_otherwise_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="cross-attention"):
        read_structure(language_model("gpt2", add_cross_attention=True))
    config = AutoConfig.for_model("mixtral", **CONFIGS["llama"])
    with pytest.raises(
        UnsupportedModel, match="'mixtral' cannot be pruned: its layers are mixtures of experts, and no arch"
    ):
        read_structure(AutoModelForCausalLM.from_config(config))
    model = language_model("llama")
    model.base_model.layers[0].self_attn.k_proj = torch.nn.Linear(32, 24)
    with pytest.raises(UnsupportedModel, match=r"self_attn\.k_proj has 24 outputs, not 4 x 4"):
        read_structure(model)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("stablelm", {"qk_layernorm": True}),
        ("cohere", {"use_qk_norm": True}),
        ("bloom", {"apply_residual_connection_post_layernorm": True}),
        ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}),
    ],
)
def test_variants_whose_heads_cannot_be_cut_are_refused_by_name(name: str, option: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel, match=f"^{next(iter(option))}=True"):
        read_structure(language_model(name, **option))


def test_the_position_bias_says_how_many_tokens_are_read() -> None:
    assert most_tokens(language_model("mpt", max_seq_len=40).config) == 40


@every_decoder
def test_a_sublayer_without_units_adds_its_bias_alone(name: str) -> None:
    model = language_model(name)
    structure = read_structure(model)
    cut(structure, MASKS["nothing kept"](structure))
    hidden = torch.randn(2, 5, 32)
    for site in structure:
        consumer, bias = structure.consumer(site), structure.consumer_bias(site)
        added = consumer(hidden[..., :0])
        assert torch.equal(added, torch.zeros(2, 5, 32) if bias is None else bias.expand(2, 5, 32))
