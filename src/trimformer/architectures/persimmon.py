"""Persimmon: GPT-NeoX's projections below Llama's attention module."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused

PERSIMMON = Architecture(
    description="pre-norm decoder with Persimmon's fused query, key and value",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=(Fused("self_attn.query_key_value", parts=3, by_unit=True),),
                    consumer="self_attn.dense",
                    sizes={"num_heads": "heads"},
                ),
                FeedForward(producers=("mlp.dense_h_to_4h",), consumer="mlp.dense_4h_to_h"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"intermediate_size": "neuron"},
)

PROVIDES = {"persimmon": PERSIMMON}
