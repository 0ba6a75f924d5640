"""Gemma 2 and 3: Llama's projections, with a norm before each sublayer and another of what it adds."""

from typing import Any

from trimformer.model.description import Architecture, Attention, Chain, FeedForward
from trimformer.model.query_heads import by_query_head

GEMMA2 = Architecture(
    description="decoder with Gemma 2's norms before and after each sublayer",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                    norm="post_attention_layernorm",
                ),
                FeedForward(
                    producers=("mlp.gate_proj", "mlp.up_proj"),
                    consumer="mlp.down_proj",
                    norm="post_feedforward_layernorm",
                ),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"},
)

ONE_KEY_VALUE_HEAD = by_query_head(GEMMA2)


def gemma2(config: Any) -> Architecture:
    """Choose by the number of key and value heads."""
    return ONE_KEY_VALUE_HEAD if config.num_key_value_heads == 1 < config.num_attention_heads else GEMMA2


PROVIDES = dict.fromkeys(("gemma2", "gemma3_text"), gemma2)
