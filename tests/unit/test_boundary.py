"""Running a model from one of its blocks gives what running all of it does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tiny_models import CONFIGS, HEADS, inputs, outputs, tiny_model
from trimformer.boundary import Boundary
from trimformer.interfaces import Batch, Site
from trimformer.structure import Structure, read_structure


def batches_of(structure: Structure) -> list[Batch]:
    return [inputs(structure.model), inputs(structure.model, (5, 5), seed=1)]


@torch.no_grad()
def seen_at(structure: Structure, batch: Batch, site: Site) -> dict[str, Tensor]:
    """The consumer's input and output, and the input of what adds it to the residual stream, in a full forward pass."""
    seen: dict[str, Tensor] = {}
    first = structure.blocks[site.block] if site.kind == "head" else structure.linear(site.producers[0])
    handles = [
        structure.consumer(site).register_forward_hook(lambda _, args, out: seen.update(inputs=args[0], output=out)),
        first.register_forward_pre_hook(
            lambda _, args, kwargs: seen.update(residual=args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        ),
    ]
    structure.model(**batch)
    for handle in handles:
        handle.remove()
    real = batch["attention_mask"].bool()
    return {name: value[real] for name, value in seen.items()}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_tail_from_every_block_equals_the_whole_model(architecture: str, head: str) -> None:
    structure = read_structure(tiny_model(architecture, head))
    batches = batches_of(structure)
    boundary = Boundary(structure, batches)
    modules = [id(module) for module in structure.model.modules()]
    for block in range(len(structure.blocks)):
        assert boundary.block == block
        for index, batch in enumerate(batches):
            with torch.no_grad():
                tail = boundary.tail(index)
                expected = structure.model(**batch)
            for name, value in expected.items():
                torch.testing.assert_close(tail[name], value, atol=1e-5, rtol=0)
        boundary.advance()
    assert [id(module) for module in structure.model.modules()] == modules
    assert torch.isfinite(outputs(structure.model, batches[0])).all()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_before_and_after_a_sublayer_equal_the_whole_model(architecture: str) -> None:
    structure = read_structure(tiny_model(architecture))
    batches = batches_of(structure)
    boundary = Boundary(structure, batches)
    for site in structure:
        for index, batch in enumerate(batches):
            expected = seen_at(structure, batch, site)
            residual, entering = boundary.before(index, site)
            torch.testing.assert_close(residual, expected["residual"], atol=1e-5, rtol=0)
            torch.testing.assert_close(entering, expected["inputs"], atol=1e-5, rtol=0)
            after = boundary.after(index, site)
            torch.testing.assert_close(after, expected["residual"] + expected["output"], atol=1e-5, rtol=0)
        if site.kind == "neuron":
            boundary.advance()
