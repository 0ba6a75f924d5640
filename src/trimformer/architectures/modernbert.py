"""ModernBERT: one projection for query, key and value, one for gate and input, local attention in most layers."""

from importlib.metadata import version
from typing import Any

from trimformer.errors import UnsupportedModel
from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused

MODERNBERT = Architecture(
    description="pre-norm encoder with ModernBERT's fused projections",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="attn", producers=(Fused("attn.Wqkv", parts=3),), consumer="attn.Wo", windows="local_attention"
                ),
                FeedForward(producers=(Fused("mlp.Wi", parts=2),), consumer="mlp.Wo"),
            ),
            pre_norm=True,
        ),
    ),
    stock={"intermediate_size": "neuron"},
)


def modernbert(_: Any) -> Architecture:
    """Refuse the code of transformers 5.0, in which attention keeps its number of heads."""
    installed = version("transformers")
    if installed.startswith("5.0."):
        raise UnsupportedModel(f"ModernBERT cannot be cut with transformers {installed}: install 5.1 or newer")
    return MODERNBERT


PROVIDES = {"modernbert": modernbert}
