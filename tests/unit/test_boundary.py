"""Running a model from one of its blocks gives what running all of it does."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import asked
from tiny_models import CONFIGS, HYBRIDS, default_names, inputs, outputs, pairs, tiny_model
from trimformer.data.rows import Batch
from trimformer.model.sites import Site
from trimformer.model.structure import Structure, read_structure
from trimformer.observing.boundary import Boundary
from trimformer.observing.entering import unneeded


def batches_of(structure: Structure) -> list[Batch]:
    return [inputs(structure.model), inputs(structure.model, (5, 5), seed=1)]


@torch.no_grad()
def seen_at(structure: Structure, batch: Batch, site: Site) -> dict[str, Tensor]:
    """The consumer's input and output, what is added to the residual stream and to what, in a full forward pass."""
    seen: dict[str, Tensor] = {}
    tokens = batch["input_ids"].numel()
    block, consumer = structure.block(site), structure.consumer(site)
    first = block if site.kind == "head" else structure.projection(site.producers[0].path)
    if site.residual is not None:
        first, place = structure.module(site.residual.path), site.residual.argument
    else:
        place = 0
    handles = [
        structure.projection(site.producers[0].path).register_forward_pre_hook(
            # DeBERTa's projections read embeddings of positions as well
            lambda _, args: seen.update(entering=args[0]) if args[0].shape[:-1].numel() == tokens else None
        ),
        consumer.register_forward_hook(lambda _, args, out: seen.update(inputs=args[0], output=out.clone())),
        structure.added(site).register_forward_hook(lambda _, __, out: seen.update(added=site.multiplier * out)),
        first.register_forward_pre_hook(lambda _, args: seen.update(residual=args[place])),
        block.register_forward_hook(lambda _, __, out: seen.update(left=out if torch.is_tensor(out) else out[0])),
    ]
    structure.model(**batch)
    for handle in handles:
        handle.remove()
    real = batch["attention_mask"].bool()
    found = {name: value.reshape(*real.shape, value.shape[-1])[real] for name, value in seen.items()}
    if site.kind == "neuron" and structure.pre_norm():
        # but for XMOD's adapters nothing comes after the sum, so the block's output is it
        found["residual"] = found["left"] - found["added"]
    return found


@pytest.mark.parametrize(("architecture", "head"), asked(pairs()))
def test_the_tail_from_every_block_equals_the_whole_model(architecture: str, head: str) -> None:
    structure = read_structure(tiny_model(architecture, head))
    batches = batches_of(structure)
    boundary = Boundary(structure, batches)
    modules = [id(module) for module in structure.model.modules()]
    for block in range(len(structure.blocks())):
        assert boundary.block == block
        for index, batch in enumerate(batches):
            with torch.no_grad():
                tail = boundary.tail(index)
                expected = structure.model(**batch)
            for name, value in expected.items():
                if not torch.is_tensor(value):  # keys and values for generation are not kept
                    continue
                torch.testing.assert_close(tail[name], value, atol=1e-5, rtol=0)
        boundary.advance()
    assert [id(module) for module in structure.model.modules()] == modules
    assert torch.isfinite(outputs(structure.model, batches[0])).all()


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("architecture", [case for case in default_names() if case.values != ("xmod with pre-norm",)])
def test_before_and_after_a_sublayer_equal_the_whole_model(architecture: str, settled: bool) -> None:
    structure = read_structure(tiny_model(architecture))
    batches = batches_of(structure)
    boundary = Boundary(structure, batches)
    for site in structure:
        if settled:
            boundary.settle(boundary.sites)
        last_pass = (structure.passes() - 1) * len(batches)  # what is seen last is that
        for index, batch in enumerate(batches, start=last_pass):
            expected = seen_at(structure, batch, site)
            residual, consumed = boundary.before(index, site)
            torch.testing.assert_close(residual, expected["residual"], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(consumed, expected["inputs"], atol=1e-5, rtol=0)
            entering = boundary.entering(index, site)
            torch.testing.assert_close(entering, expected["entering"], atol=1e-5, rtol=0)
            crossing = boundary.across(index, site)
            assert (crossing.block_output is not None) == site.last_in_block
            torch.testing.assert_close(crossing.entering, expected["entering"], atol=1e-5, rtol=0)
            leaving = expected["output"] if site.norm else expected["residual"] + expected["added"]
            torch.testing.assert_close(crossing.leaving, leaving, atol=1e-5, rtol=1e-5)
        if site.last_in_block:
            boundary.advance()


@pytest.mark.parametrize("architecture", default_names(name for name in CONFIGS if name not in HYBRIDS))
def test_settled_attention_runs_once(architecture: str) -> None:
    structure = read_structure(tiny_model(architecture))
    boundary = Boundary(structure, batches_of(structure))
    head, neuron = structure.sites[:2]
    runs = []
    values = next(each for each in reversed(head.producers) if each.aligned)
    structure.projection(values.path).register_forward_hook(lambda *_: runs.append(1))
    boundary.settle(boundary.sites)
    outputs_of_block = {}
    for index in range(len(boundary.batches)):
        boundary.across(index, head)
        boundary.entering(index, neuron)
        boundary.before(index, neuron)
        outputs_of_block[index] = boundary.across(index, neuron).block_output
    boundary.advance(outputs_of_block)
    assert len(runs) == len(boundary.batches)


UNNEEDED = {
    "bert": ["embeddings"],
    "llama": ["embed_tokens"],
    "gpt2": ["wte", "wpe", "drop"],
    "opt": ["decoder.embed_tokens", "decoder.embed_positions"],
    "nanochat": ["embed_tokens"],  # its norm, which runs before the blocks, runs again behind them
}
"""What need not run where the input of the first block is known."""


@pytest.mark.parametrize("architecture", UNNEEDED)
def test_what_is_below_the_blocks_runs_once_a_batch(architecture: str) -> None:
    structure, runs = read_structure(tiny_model(architecture)), list[nn.Module]()
    batches, below = batches_of(structure), [structure.module(path) for path in UNNEEDED[architecture]]
    boundary = Boundary(structure, batches)
    assert unneeded(structure, batches[0]) == below

    def counted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        runs.append(module)
        return type(module).forward(module, *args, **kwargs)

    for module in below:
        module.forward = partial(counted, module)
    for _ in structure.blocks():
        boundary.advance()
    assert not runs
    structure.model(**batches[0])
    assert runs == below


@pytest.mark.parametrize("place", ["encoder.layer.0", "encoder.layer.1", "encoder.layer.1.output", "pooler"])
def test_what_is_read_again_runs_again(place: str) -> None:
    structure, given = read_structure(tiny_model("bert", "sequence classification")), list[Tensor]()
    structure.module("embeddings").register_forward_hook(lambda _, __, output: given.append(output))
    structure.module(place).register_forward_hook(lambda _, __, output: output + given[-1].mean())
    assert unneeded(structure, batches_of(structure)[0]) == []


def test_what_notes_something_down_of_its_rows_runs_again() -> None:
    structure, noted = read_structure(tiny_model("bert")), list[Tensor]()
    embeddings = structure.module("embeddings")
    forward = embeddings.forward

    def noting(*args: Any, **kwargs: Any) -> Tensor:
        noted.append(kwargs["input_ids"])
        return forward(*args, **kwargs)

    embeddings.forward = noting
    structure.module("encoder.layer.1").register_forward_hook(lambda _, __, output: output + noted[-1][..., None])
    assert unneeded(structure, batches_of(structure)[0]) == []


@torch.no_grad()
def test_what_is_added_in_place_is_added_once() -> None:
    structure = read_structure(tiny_model("bert"))
    batches = batches_of(structure)
    structure.module("embeddings").register_forward_hook(lambda _, __, output: output.add_(1))
    boundary = Boundary(structure, batches)
    assert boundary._unneeded
    for block in range(len(structure.blocks())):
        for index, batch in enumerate(batches):
            expected = structure.model(**batch, output_hidden_states=True).hidden_states[block]
            torch.testing.assert_close(boundary.hidden[index], expected)
        boundary.advance()
