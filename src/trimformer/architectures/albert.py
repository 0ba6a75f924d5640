"""ALBERT: one block with one set of weights runs as often as the model has layers, so that one decision is for all."""

from typing import Any

from trimformer.errors import UnsupportedModel
from trimformer.model.description import Architecture, Attention, Chain, FeedForward

ALBERT = Architecture(
    description="post-norm encoder whose layers share their weights",
    chains=(
        Chain(
            blocks="encoder.albert_layer_groups.0.albert_layers",
            passes="num_hidden_layers",
            sublayers=(
                Attention(
                    core="attention",
                    producers=("attention.query", "attention.key", "attention.value"),
                    consumer="attention.dense",
                    core_norm="LayerNorm",
                    sizes={"num_attention_heads": "heads", "all_head_size": "features"},
                    head_size="attention_head_size",
                ),
                FeedForward(producers=("ffn",), consumer="ffn_output"),
            ),
        ),
    ),
    stock={"intermediate_size": "neuron"},
)


def albert(config: Any) -> Architecture:
    """Refuse several groups of layers, or several layers in a group, which run in another order than they stand."""
    if (config.num_hidden_groups, config.inner_group_num) != (1, 1):
        raise UnsupportedModel("only an ALBERT whose layers share one set of weights can be pruned")
    return ALBERT


PROVIDES = {"albert": albert}
