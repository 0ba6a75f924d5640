"""BLOOM: one projection is query, key and value, head by head; positions are a bias for every head (ALiBi)."""

from typing import Any

from trimformer.errors import UnsupportedModel
from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused

BLOOM = Architecture(
    description="pre-norm decoder with BLOOM's module names and ALiBi",
    chains=(
        Chain(
            blocks="h",
            sublayers=(
                Attention(
                    core="self_attention",
                    producers=(Fused("self_attention.query_key_value", parts=3, by_unit=True),),
                    consumer="self_attention.dense",
                    sizes={"num_heads": "heads"},
                    by_head={"alibi": 0},
                ),
                FeedForward(producers=("mlp.dense_h_to_4h",), consumer="mlp.dense_4h_to_h"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
)


def bloom(config: Any) -> Architecture:
    """Refuse a residual stream that is normalised, and matrices that are multiplied in slices."""
    if config.apply_residual_connection_post_layernorm:
        raise UnsupportedModel("apply_residual_connection_post_layernorm=True: its residual stream is another one")
    if config.pretraining_tp > 1 and config.slow_but_exact:
        raise UnsupportedModel("slow_but_exact=True computes with slices of all heads: load the model without it")
    return BLOOM


PROVIDES = {"bloom": bloom}
