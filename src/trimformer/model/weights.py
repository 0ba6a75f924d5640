"""The size of a model's weights, and how much of it is word embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel


def weight_bytes(model: PreTrainedModel, dtype: torch.dtype | None = None) -> int:
    """Add up the size of a model's weights, each once, as they are or as stored in another precision."""
    return sum(weight.numel() * (dtype or weight.dtype).itemsize for weight in model.parameters())


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
