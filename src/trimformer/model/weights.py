"""The size of a model's weights, and how much of it is word embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


def weight_bytes(model: PreTrainedModel, dtype: torch.dtype | None = None) -> int:
    """Add up the size of a model's weights, each once, as they are or as stored in another precision."""
    return sum(weight.numel() * stored_as(weight, dtype).itemsize for weight in model.parameters())


def stored_as(values: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Give the type that numbers are stored in: the one asked for, but integers and truth values stay what they are."""
    return dtype if dtype is not None and values.is_floating_point() else values.dtype


LENGTH_BYTES, ALIGNED = 8, 8
"""Of a file of safetensors: bytes of the number that it begins with, and what its header's length is a multiple of."""


def stored_tensors(model: PreTrainedModel, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """List the tensors that a checkpoint has, each once, by name; on no device, in the precision they are stored in.

    A tied one has its first name: transformers leaves out those that are tied to it.
    """
    once: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        once.setdefault(id(tensor), (name, tensor))
    return {
        name: torch.empty(tensor.shape, dtype=stored_as(tensor, dtype), device="meta") for name, tensor in once.values()
    }


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Compute the size of a file of safetensors that holds some tensors, header included; nothing is written.

    Tensors stand by the size of their numbers, then by name: where each begins has as many digits as in the file.

    Source: the format as its authors describe it, https://github.com/huggingface/safetensors#format.
    """
    size, header = 0, dict[str, Any](__metadata__={"format": "pt"})
    for name, tensor in sorted(tensors.items(), key=lambda each: (-each[1].element_size(), each[0])):
        end = size + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _kind(tensor.dtype), "shape": list(tensor.shape), "data_offsets": [size, end]}
        size = end
    length = len(json.dumps(header, separators=(",", ":")))
    return LENGTH_BYTES + ceil(length / ALIGNED) * ALIGNED + size


def _kind(dtype: torch.dtype) -> str:
    """Name a type as safetensors does: `F32`, `BF16`, `I64`, `U8`, `BOOL`."""
    if dtype is torch.bfloat16:
        return "BF16"
    if dtype is torch.bool:
        return "BOOL"
    return f"{'F' if dtype.is_floating_point else 'I' if dtype.is_signed else 'U'}{8 * dtype.itemsize}"


def word_embeddings(model: PreTrainedModel) -> Tensor | None:
    """Find the weight that has a row a token: `(tokens, width)`; None in a model that reads something else."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None
    return weight if isinstance(weight, Tensor) and weight.ndim == len(("tokens", "width")) else None


def word_share(model: PreTrainedModel) -> float:
    """Compute the share of all parameters that belongs to words: rows of input and output embeddings, 0 to 1."""
    words = word_embeddings(model)
    if words is None:
        return 0.0
    output = getattr(model.get_output_embeddings(), "weight", words)
    return sum(each.numel() for each in {words, output}) / sum(weight.numel() for weight in model.parameters())
