"""Tiny models with random weights, of every architecture and with every task head: built from configs, no download.

A new architecture needs one line in `CONFIGS`; the contract tests fail with a clear message until it is there.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from conftest import MAX_LENGTH
from trimformer.interfaces import Batch, Masks
from trimformer.structure import Structure

VOCABULARY = 120
WIDTH = 32
HEADS_PER_BLOCK = 4
NEURONS = 24

_COMMON = {"vocab_size": VOCABULARY, "initializer_range": 0.2}
_BERT = {
    **_COMMON,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS_PER_BLOCK,
    "intermediate_size": NEURONS,
    "max_position_embeddings": MAX_LENGTH,
}
_ROBERTA = {
    **_BERT,
    "max_position_embeddings": MAX_LENGTH + 2,  # positions start after the padding id
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": {**_BERT, "embedding_size": 16},
    "distilbert": {
        **_COMMON,
        "dim": WIDTH,
        "n_layers": 2,
        "n_heads": HEADS_PER_BLOCK,
        "hidden_dim": NEURONS,
        "max_position_embeddings": MAX_LENGTH,
    },
}
"""By `model_type`; 2 blocks of 4 heads and 24 neurons each, residual stream 32 wide."""

HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "encoder": ("AutoModel", {}),
    "sequence classification": ("AutoModelForSequenceClassification", {"num_labels": 3}),
    "regression": ("AutoModelForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "token classification": ("AutoModelForTokenClassification", {"num_labels": 5}),
    "question answering": ("AutoModelForQuestionAnswering", {}),
    "masked language model": ("AutoModelForMaskedLM", {}),
}
"""By name: the auto class and what its config needs."""


def tiny_model(
    architecture: str, head: str = "sequence classification", *, seed: int = 0, **config: Any
) -> PreTrainedModel:
    """A tiny model in evaluation mode; further arguments go to its config. Biases are random too, not zero."""
    assert architecture in CONFIGS, (
        f"architecture {architecture!r} has no tiny config: add one to CONFIGS in tests/tiny_models.py"
    )
    auto_class, options = HEADS[head]
    settings = AutoConfig.for_model(architecture, **{**CONFIGS[architecture], **options, **config})
    torch.manual_seed(seed)
    model: PreTrainedModel = getattr(transformers, auto_class).from_config(settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    return model.eval()


def inputs(model: PreTrainedModel, lengths: tuple[int, ...] = (11, 4, 7), seed: int = 0) -> Batch:
    """Right-padded random tokens of some lengths, with the model's own padding id."""
    padding = model.config.pad_token_id or 0
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), padding)
    attention_mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(5, VOCABULARY, (length,), generator=generator)
        attention_mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": attention_mask}


@torch.no_grad()
def outputs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """What the model predicts at tokens that are no padding, all of its output tensors in one row of numbers."""
    found = model(**batch)
    real = batch["attention_mask"].bool()
    per_token = (value.dim() > 1 and value.shape[:2] == real.shape for value in found.values())
    return torch.cat(
        [
            (value[real] if by_token else value).flatten()
            for value, by_token in zip(found.values(), per_token, strict=True)
        ]
    )


def random_masks(structure: Structure, keep: float = 0.5, seed: int = 0) -> Masks:
    """Every unit stays with probability `keep`; at least one does in every site that has any."""
    generator = torch.Generator().manual_seed(seed)
    masks = {site.name: torch.rand(site.units, generator=generator) < keep for site in structure}
    for mask in masks.values():
        mask[:1] = True
    return masks


def parameters_by_name(model: PreTrainedModel) -> dict[str, Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
