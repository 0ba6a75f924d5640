"""Phi 1 and 2: attention and FFN side by side, output projections of other names than Llama's."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

PHI = Architecture(
    description="pre-norm decoder with Phi's module names, parallel residual",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.dense",
                ),
                FeedForward(producers=("mlp.fc1",), consumer="mlp.fc2"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"intermediate_size": "neuron"},
)

PROVIDES = {"phi": PHI}
