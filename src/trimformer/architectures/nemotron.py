"""Nemotron and the decoders that share its modules: Llama's without a gate in the FFN."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

NEMOTRON = Architecture(
    description="pre-norm decoder with Llama's module names, without gates",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                ),
                FeedForward(producers=("mlp.up_proj",), consumer="mlp.down_proj"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"},
)

PROVIDES = dict.fromkeys(("nemotron", "arcee", "apertus", "jais2"), NEMOTRON)
