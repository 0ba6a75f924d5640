"""Embeddings with fewer rows: a copy of a model that knows some of the tokens only.

Which weights have a row, a column or an entry a token is read off the model's class: it is built twice without memory,
for the old and for the new size of the vocabulary, and what differs belongs to the vocabulary: input and output
embeddings, tied or not, the bias of a masked-language head, and numbers that modules keep of their size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.errors import UnsupportedModel
from trimformer.model.offload import is_offloaded
from trimformer.model.weights import word_embeddings
from trimformer.vocabulary.named_tokens import renumber


def embedding_rows(model: PreTrainedModel) -> int:
    """Count the rows of a model's word embeddings.

    Raises:
        UnsupportedModel: it has none that can be trimmed.
    """
    words = word_embeddings(model)
    rows, said = (0 if words is None else len(words)), getattr(model.config.get_text_config(), "vocab_size", 0)
    if words is None or rows != said:
        raise UnsupportedModel(
            f"{type(model).__name__} has word embeddings of {rows} rows where its config says {said}: "
            "its vocabulary cannot be trimmed"
        )
    if is_offloaded(model):
        raise UnsupportedModel("the vocabulary of an offloaded model cannot be trimmed: load it without a map")
    return rows


def with_rows(model: PreTrainedModel, order: Sequence[int]) -> PreTrainedModel:
    """Make a copy of a model that has some of the rows of its word embeddings; the model given stays as it is.

    Args:
        model: dense or pruned.
        order: rows to keep, which are token ids; the new id of each is its place.

    Raises:
        UnsupportedModel: its class keeps the vocabulary in some way that cannot be trimmed.
    """
    new = {old: place for place, old in enumerate(order)}
    config = copy.deepcopy(model.config)
    config.get_text_config().vocab_size = len(order)
    renumber(config, new)
    before, after = _blueprint(model, model.config), _blueprint(model, config)
    memo: dict[int, Any] = {id(model.config): config} | _smaller(model, before, after, order)
    small: PreTrainedModel = copy.deepcopy(model, memo)
    for path, numbers in _changed_numbers(before, after).items():
        for name, value in numbers.items():
            setattr(small.get_submodule(path), name, value)
    if getattr(small, "generation_config", None) is not None:
        renumber(small.generation_config, new)
    return small


def _blueprint(model: PreTrainedModel, config: Any) -> nn.Module:
    """Build a model of the same class without memory."""
    with torch.device("meta"):
        return type(model)(copy.deepcopy(config))


def _smaller(
    model: PreTrainedModel, before: nn.Module, after: nn.Module, order: Sequence[int]
) -> dict[int, nn.Parameter | Tensor]:
    """Make the weights of the smaller vocabulary, by the `id` of those that they stand for.

    Raises:
        UnsupportedModel: a weight is not of the size that its class gives it, or the word embeddings are none of them.
    """
    kept, found = torch.tensor(order), {}
    whole, wanted = _tensors(before), _tensors(after)
    for name, tensor in _tensors(model).items():
        if name not in wanted or whole[name].shape == wanted[name].shape:
            continue
        axes = [axis for axis, size in enumerate(whole[name].shape) if size != wanted[name].shape[axis]]
        if len(axes) != 1 or tensor.shape != whole[name].shape or wanted[name].shape[axes[0]] != len(order):
            raise UnsupportedModel(
                f"{name} has the shape {tuple(tensor.shape)}, which a smaller vocabulary does not simply make shorter: "
                "the vocabulary of this model cannot be trimmed"
            )
        part = tensor.detach().index_select(axes[0], kept.to(tensor.device))
        is_parameter = isinstance(tensor, nn.Parameter)
        found[id(tensor)] = nn.Parameter(part, requires_grad=tensor.requires_grad) if is_parameter else part
    words = word_embeddings(model)
    if id(words) not in found and words is not None and len(words) != len(order):
        raise UnsupportedModel(f"the word embeddings of {type(model).__name__} do not follow its config")
    return found


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """List parameters and buffers, by name; what is tied has several names."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def _changed_numbers(before: nn.Module, after: nn.Module) -> dict[str, Mapping[str, int | None]]:
    """List the numbers that modules keep and that differ between two models of a class, by path and name."""
    others = dict(after.named_modules())
    return {
        path: {
            name: getattr(others[path], name)
            for name, value in vars(module).items()
            if isinstance(value, int) and getattr(others[path], name, value) != value
        }
        for path, module in before.named_modules()
    }
