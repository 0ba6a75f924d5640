"""CTRL: an attention module that is called with values, keys and queries."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

CTRL = Architecture(
    description="pre-norm decoder with CTRL's module names",
    chains=(
        Chain(
            blocks="h",
            sublayers=(
                Attention(
                    core="multi_head_attention",
                    producers=("multi_head_attention.Wq", "multi_head_attention.Wk", "multi_head_attention.Wv"),
                    consumer="multi_head_attention.dense",
                ),
                FeedForward(producers=("ffn.0",), consumer="ffn.2"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"dff": "neuron"},
)

PROVIDES = {"ctrl": CTRL}
