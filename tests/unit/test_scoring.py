"""Scores from statistics equal what they stand for, computed the long way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tiny_models import inputs, tiny_model
from trimformer.model.sites import Site
from trimformer.model.structure import Structure, read_structure
from trimformer.observing.watching import watching
from trimformer.pruning.choose.scoring import mask_gradients, output_energy, unit_second_moments


def loss(structure: Structure, batch: dict[str, Tensor]) -> Tensor:
    return structure.model(**batch).logits.square().sum(1)


def autograd_of_real_masks(structure: Structure, batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """Gradient of one sequence's loss with respect to a mask parameter at every consumer."""
    masks = {site.name: nn.Parameter(torch.ones(site.units)) for site in structure}
    handles = []
    for site in structure:

        def multiply(_: nn.Module, args: tuple[Tensor], site: Site = site) -> Tensor:
            return args[0] * masks[site.name].repeat_interleave(site.unit_width)

        handles.append(structure.consumer(site).register_forward_pre_hook(multiply))
    loss(structure, batch)[row].backward()
    for handle in handles:
        handle.remove()
    return {name: mask.grad for name, mask in masks.items()}


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta"])
def test_mask_gradients_equal_autograd_of_real_masks(architecture: str) -> None:
    structure = read_structure(tiny_model(architecture))
    batch, found = inputs(structure.model), {}

    def see(site: Site, hidden: Tensor, gradient: Tensor) -> None:
        found[site.name] = mask_gradients(hidden, gradient, site.units)

    with watching(structure, structure.sites, input_gradients=see):
        loss(structure, batch).sum().backward()
    for row in range(len(batch["input_ids"])):
        for name, expected in autograd_of_real_masks(structure, batch, row).items():
            torch.testing.assert_close(found[name][row], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("units", "unit_width"), [(4, 3), (12, 1)])
def test_output_energy_is_the_squared_norm_of_what_units_add(units: int, unit_width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, units * unit_width, generator=generator)
    weights = torch.randn(units, unit_width, 5, generator=generator)
    added = torch.einsum("tuw,uwd->utd", hidden.reshape(20, units, unit_width), weights)
    moments = unit_second_moments(hidden, units)
    assert moments.shape == (units, unit_width, unit_width)
    torch.testing.assert_close(output_energy(moments, weights), added.square().sum((1, 2)))
