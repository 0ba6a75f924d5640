"""The size of a model's weights, and how much of it is word embeddings."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def weight_bytes(model: PreTrainedModel, dtype: torch.dtype | None = None) -> int:
    """Add up the size of a model's weights, each once, as they are or as stored in another precision."""
    return sum(weight.numel() * (dtype or weight.dtype).itemsize for weight in model.parameters())


def word_share(model: PreTrainedModel) -> float:
    """Compute the share of all parameters that belongs to words: rows of input and output embeddings, 0 to 1."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [getattr(module, "weight", None) for module in modules]
    words = {id(weight): weight.numel() for weight in weights if isinstance(weight, torch.Tensor)}
    return sum(words.values()) / max(1, sum(weight.numel() for weight in model.parameters()))
