"""What every architecture promises, with every task head: cutting equals masking, and what is saved loads again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from conftest import asked, build_tokenizer
from tiny_models import (
    ALL_HEADS,
    CONFIGS,
    UNKNOWN,
    default_names,
    heads_of,
    inputs,
    is_causal,
    main_head,
    outputs,
    pairs,
    parameters_by_name,
    random_masks,
    tiny_model,
    units_of,
)
from trimformer import plugins
from trimformer.data.batches import pad
from trimformer.errors import InvalidOption, UnsupportedModel
from trimformer.model import checkpoint
from trimformer.model.masking import masked
from trimformer.model.sites import Masks
from trimformer.model.structure import Structure, parameter_count, read_structure
from trimformer.model.surgery import cut, pruning_config


def empty(*kinds: str, block: int | None = None) -> Callable[[Structure], Masks]:
    """Random masks with the sites of some kinds empty, in one block or in all."""

    def choose(structure: Structure) -> Masks:
        emptied = {site.name for site in structure if site.kind in kinds and block in (None, site.block)}
        masks = random_masks(structure)
        return {name: mask & (name not in emptied) for name, mask in masks.items()}

    return choose


MASKS: dict[str, Callable[[Structure], Masks]] = {
    "random": random_masks,
    "other random": lambda structure: random_masks(structure, keep=0.3, seed=1),
    "all kept": Structure.full_masks,
    "no heads below": empty("head", block=0),
    "no heads above": empty("head", block=1),
    "no neurons below": empty("neuron", block=0),
    "no heads": empty("head"),
    "nothing kept": empty("head", "neuron"),
}

LOADED = ("other random", "all kept", "no heads below", "nothing kept")

every_head = pytest.mark.parametrize(("architecture", "head"), asked(pairs()))
some_masks = pytest.mark.parametrize("choose", [MASKS[name] for name in LOADED], ids=LOADED)


@pytest.fixture(params=default_names())
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def dense(architecture: str, head: str) -> PreTrainedModel:
    if head not in heads_of(architecture):
        pytest.skip(f"transformers has no {head} of {architecture}")
    return tiny_model(architecture, head)


def pruned(model: PreTrainedModel, choose: Callable[[Structure], Masks] = random_masks) -> PreTrainedModel:
    structure = read_structure(copy.deepcopy(model))
    cut(structure, choose(structure))
    return structure.model


def aligned(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose weights lie in memory of their own.

    Loaded weights are views into the file: the matrix kernels round differently where these are not aligned.
    """
    return copy.deepcopy(model)


def load(folder: Path, head: str, **options: object) -> PreTrainedModel:
    return getattr(transformers, ALL_HEADS[head][0]).from_pretrained(folder, **options)


def padding_tokenizer(model: PreTrainedModel, side: str) -> PreTrainedTokenizerBase:
    """A tokenizer that pads with the model's own padding id on one side."""
    tokenizer = build_tokenizer(padding_side=side)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
    assert tokenizer.pad_token_id == model.config.pad_token_id
    return tokenizer


def test_the_tiny_configs_are_those_of_the_architectures() -> None:
    model_types = {name.partition(" ")[0] for name in (*CONFIGS, *UNKNOWN)}
    assert set(plugins.names("architectures")) == model_types, "give each architecture a line in tests/tiny_models.py"


def test_an_architecture_without_tiny_config_is_named() -> None:
    with pytest.raises(AssertionError, match=r"'new' has no tiny config: add one to CONFIGS in tests/tiny_models\.py"):
        tiny_model("new")


@every_head
def test_sites_are_all_heads_and_neurons_bottom_up(dense: PreTrainedModel, architecture: str) -> None:
    assert [(site.kind, site.block, site.units) for site in read_structure(dense)] == units_of(architecture)


@every_head
def test_cut_model_computes_what_the_masked_one_does(dense: PreTrainedModel) -> None:
    structure, batch, before = read_structure(dense), inputs(dense), parameters_by_name(dense)
    whole = outputs(dense, batch)
    for name, choose in MASKS.items():
        masks = choose(structure)
        with masked(structure, masks):
            expected = outputs(dense, batch)
        small = pruned(dense, choose)
        torch.testing.assert_close(
            outputs(small, batch), expected, atol=1e-5, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
        )
        all_kept = all(bool(mask.all()) for mask in masks.values())
        assert torch.allclose(whole, expected, atol=1e-5) == all_kept, name
        sizes = {site.name: site.units for site in read_structure(small)}
        assert sizes == {site: int(mask.sum()) for site, mask in masks.items()}, name
        assert (parameter_count(small) < parameter_count(dense)) != all_kept, name
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())


@some_masks
@every_head
def test_saved_model_loads_bit_equal(
    dense: PreTrainedModel, head: str, choose: Callable[[Structure], Masks], tmp_path: Path
) -> None:
    small, batch = pruned(dense, choose), inputs(dense)
    expected = outputs(small, batch)
    small.save_pretrained(tmp_path)
    loaded = aligned(load(tmp_path, head))
    assert type(loaded) is type(small)
    assert loaded.state_dict().keys() == small.state_dict().keys()
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(outputs(loaded, batch), expected)
    assert parameter_count(loaded) == parameter_count(small)
    assert pruning_config(read_structure(loaded)).kept == pruning_config(read_structure(small)).kept
    assert loaded.config._attn_implementation == ("sdpa" if type(dense)._supports_sdpa else "eager")
    for model in (loaded, dense):
        model.set_attn_implementation("eager")
    assert loaded.config._attn_implementation == dense.config._attn_implementation  # some classes keep theirs
    torch.testing.assert_close(outputs(loaded, batch), expected, atol=1e-5, rtol=0)


@every_head
def test_eager_attention_can_be_asked_for(dense: PreTrainedModel, architecture: str, head: str, tmp_path: Path) -> None:
    """As a dense model: Falcon's eager attention adds ALiBi twice, so that there it is compared with itself."""
    if architecture == "falcon with alibi":
        dense = tiny_model(architecture, head, attn_implementation="eager")
    small, batch = pruned(dense, MASKS["no heads below"]), inputs(dense)
    small.save_pretrained(tmp_path)
    eager = load(tmp_path, head, attn_implementation="eager")
    assert eager.config._attn_implementation == "eager"
    torch.testing.assert_close(outputs(eager, batch), outputs(small, batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        case
        for case in asked(pairs())
        # transformers itself cannot read a bare Llama from one with a question-answering head: other parameter names
        if case.values[1] != "encoder" and not (is_causal(case.values[0]) and case.values[1] == "question answering")
    ],
)
def test_the_bare_encoder_loads_from_a_checkpoint_with_head(dense: PreTrainedModel, tmp_path: Path) -> None:
    small, batch = pruned(dense, MASKS["no heads above"]), inputs(dense)
    checkpoint.write(small, tmp_path / "small")
    encoder = aligned(AutoModel.from_pretrained(tmp_path / "small"))
    batch = {name: values.flatten(0, -2) for name, values in batch.items()}  # of multiple choice
    with torch.no_grad():
        expected = small.base_model(**batch).last_hidden_state
        assert torch.equal(encoder(**batch).last_hidden_state, expected)


@pytest.mark.parametrize("head", ["encoder"])
def test_a_head_can_be_put_on_a_bare_pruned_encoder(dense: PreTrainedModel, architecture: str, tmp_path: Path) -> None:
    small, batch = pruned(dense, MASKS["no heads above"]), inputs(dense)
    small.save_pretrained(tmp_path)
    classifier = aligned(load(tmp_path, main_head(architecture), num_labels=2))
    with torch.no_grad():
        expected = small(**batch).last_hidden_state
        assert torch.equal(classifier.base_model(**batch).last_hidden_state, expected)


@every_head
def test_two_cuts_are_one_cut_of_both(dense: PreTrainedModel, head: str, tmp_path: Path) -> None:
    structure = read_structure(dense)
    first = random_masks(structure, keep=0.7)
    once = read_structure(pruned(dense, lambda _: first))
    checkpoint.write(once.model, tmp_path / "once")
    reloaded = read_structure(load(tmp_path / "once", head))
    second = random_masks(reloaded, keep=0.6, seed=2)
    cut(reloaded, second)
    both = {name: mask.clone() for name, mask in first.items()}
    for name, mask in both.items():
        mask[mask.clone()] = second[name]
    expected = pruned(dense, lambda _: both)
    batch = inputs(dense)
    torch.testing.assert_close(outputs(reloaded.model, batch), outputs(expected, batch), atol=1e-5, rtol=0)
    found, wanted = pruning_config(reloaded), pruning_config(read_structure(expected))
    assert found.kept == wanted.kept == {n: m.nonzero()[:, 0].tolist() for n, m in both.items() if not m.all()}
    assert (found.units, found.linears, found.attributes) == (wanted.units, wanted.linears, wanted.attributes)


@every_head
def test_emptied_sites_stay_empty_through_further_cuts(dense: PreTrainedModel, head: str, tmp_path: Path) -> None:
    pruned(dense, MASKS["no heads below"]).save_pretrained(tmp_path)
    again = read_structure(aligned(load(tmp_path, head)))
    again = cut(again, MASKS["no neurons below"](again))
    again.model.save_pretrained(tmp_path / "again")
    loaded = aligned(load(tmp_path / "again", head))
    assert torch.equal(outputs(loaded, inputs(dense)), outputs(again.model, inputs(dense)))
    assert all((site.units == 0) == (site.block == 0) for site in read_structure(loaded))
    nothing = cut(again, {site.name: torch.zeros(site.units, dtype=torch.bool) for site in again})
    assert all(site.units == 0 for site in nothing)


@pytest.mark.parametrize("head", ["sequence classification"])
def test_cut_model_trains(dense: PreTrainedModel) -> None:
    small = pruned(dense, MASKS["no heads below"])
    learning: list[set[str]] = []
    for model in (dense, small):
        model.train()(**inputs(dense), labels=torch.tensor([0, 1, 2])).loss.backward()
        learning.append({name for name, parameter in model.named_parameters() if parameter.grad is not None})
        assert all(p.grad.shape == p.shape for p in model.parameters() if p.grad is not None)
    assert learning[1]
    assert learning[1] <= learning[0]
    idle = (learning[0] - learning[1]) & dict(small.named_parameters()).keys()
    assert all(".0.bottleneck." in name for name in idle)  # MobileBERT's gives to the empty attention alone


@pytest.mark.parametrize("head", ["sequence classification"])
def test_padding_changes_nothing(dense: PreTrainedModel) -> None:
    rows = [{"input_ids": list(range(5, 5 + length))} for length in (12, 3, 7)]
    small = pruned(dense)
    alone = [outputs(small, pad([row], None, "cpu")) for row in rows]
    for tokenizer in (None, *(padding_tokenizer(small, side) for side in ("right", "left"))):
        together = outputs(small, pad(rows, tokenizer, "cpu"))
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", ["encoder"])
def test_masks_that_do_not_fit_are_refused(dense: PreTrainedModel) -> None:
    structure = read_structure(dense)
    masks = structure.full_masks()
    name = structure.sites[0].name
    for wrong in (
        {key: mask for key, mask in masks.items() if key != name},
        masks | {"no.such.site": torch.ones(4).bool()},
        masks | {name: torch.ones(5).bool()},
        masks | {name: torch.ones(4)},
    ):
        with pytest.raises(InvalidOption, match=name):
            cut(structure, wrong)
    assert structure.sites == read_structure(dense).sites


@pytest.mark.parametrize("architecture", [name for name in CONFIGS if not is_causal(name) and name != "distilbert"])
def test_encoders_used_as_decoders_are_refused(architecture: str) -> None:
    with pytest.raises(UnsupportedModel, match="used as a decoder"):
        read_structure(tiny_model(architecture, "encoder", is_decoder=True))
