"""Starcoder2: Llama's attention, an FFN without gate under GPT-2's names."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

STARCODER2 = Architecture(
    description="pre-norm decoder with Starcoder2's module names",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                ),
                FeedForward(producers=("mlp.c_fc",), consumer="mlp.c_proj"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"},
)

PROVIDES = {"starcoder2": STARCODER2}
