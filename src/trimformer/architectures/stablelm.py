"""StableLM: Llama's modules, whose attention keeps its numbers of heads."""

from typing import Any

from trimformer.errors import UnsupportedModel
from trimformer.model.description import Architecture, Attention, Chain, FeedForward

STABLELM = Architecture(
    description="pre-norm decoder with Llama's module names, parallel residual or not",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                    sizes={"num_heads": "query heads", "num_key_value_heads": "heads"},
                ),
                FeedForward(producers=("mlp.gate_proj", "mlp.up_proj"), consumer="mlp.down_proj"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"intermediate_size": "neuron"},
)


def stablelm(config: Any) -> Architecture:
    """Refuse a norm for every head."""
    if config.qk_layernorm:
        raise UnsupportedModel("qk_layernorm=True: every head has norms of its own, which are not cut here")
    return STABLELM


PROVIDES = {"stablelm": stablelm}
