"""A model with some of its blocks only: the others are taken out of its list, and its config tells the number."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from trimformer.errors import UnsupportedModel
from trimformer.model.sites import Masks
from trimformer.model.structure import Structure, read_structure
from trimformer.model.surgery import cut, pruning_config

LISTS = ("layer_types", "mlp_layer_types", "attention_layers", "no_rope_layers")
"""Lists in configs with an entry for each block."""
PLACES = ("layer_idx", "layer_id")
"""Attributes by which modules know the number of their block."""


def check_depth(structure: Structure) -> None:
    """Refuse a model whose blocks cannot be taken out one by one.

    Raises:
        UnsupportedModel: says why.
    """
    chains, name = structure.architecture.chains, type(structure.model).__name__
    if len(chains) > 1:
        raise UnsupportedModel(f"{name} is several chains of blocks: its depth cannot be changed")
    if structure.passes() > 1:
        raise UnsupportedModel(f"the blocks of {name} run several times: its depth cannot be changed")
    if len(structure.blocks()) != getattr(structure.config(), "num_hidden_layers", None):
        raise UnsupportedModel(f"the config of {name} does not say how many blocks it has: its depth cannot be changed")
    if pruning_config(structure).kept:
        raise UnsupportedModel("the model has been pruned before: give the one that it was made from")


def with_blocks(structure: Structure, blocks: Sequence[int]) -> PreTrainedModel:
    """Copy a model and keep some blocks of the copy, by number, in rising order.

    Raises:
        UnsupportedModel: its blocks cannot be taken out.
    """
    check_depth(structure)
    model = copy.deepcopy(structure.model)
    if list(blocks) == list(range(len(structure.blocks()))):
        return model
    path, config = structure.architecture.chains[0].blocks, read_structure(model, structure.architecture).config()
    kept = nn.ModuleList([model.base_model.get_submodule(f"{path}.{block}") for block in blocks])
    model.base_model.set_submodule(path, kept)
    for name in LISTS:
        values = getattr(config, name, None)
        if isinstance(values, list) and len(values) == len(structure.blocks()):
            setattr(config, name, [values[block] for block in blocks])
    config.num_hidden_layers = len(kept)
    for place, block in enumerate(kept):
        for module in block.modules():
            for attribute in PLACES:
                if isinstance(vars(module).get(attribute), int):
                    setattr(module, attribute, place)
    return model


def cut_out(structure: Structure, masks: Masks, blocks: Sequence[int]) -> PreTrainedModel:
    """Copy a model with some blocks and, of these, some units only.

    Args:
        structure: of the whole model, which stays as it is.
        masks: by site of the whole model; those of other blocks are not looked at.
        blocks: numbers of the blocks that stay, in rising order.
    """
    shallow = read_structure(with_blocks(structure, blocks))
    cut(shallow, {site.name: masks[original_name(structure, blocks, site.name)] for site in shallow})
    return shallow.model


def original_name(structure: Structure, blocks: Sequence[int], path: str) -> str:
    """Give the path that a part of a model with some blocks has in the whole one; other paths stay.

    With the blocks 0 and 2, `encoder.layer.1.attention` is `encoder.layer.2.attention`.
    """
    before, found, after = path.partition(f"{structure.architecture.chains[0].blocks}.")
    if not found or (before and not before.endswith(".")):
        return path
    number, _, rest = after.partition(".")
    return f"{before}{found}{blocks[int(number)]}.{rest}" if number.isdecimal() else path
