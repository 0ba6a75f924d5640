"""Granite: Llama's modules, whose output is multiplied before it is added."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

GRANITE = Architecture(
    description="pre-norm decoder with Llama's module names and residual multipliers",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                    multiplier="residual_multiplier",
                ),
                FeedForward(
                    producers=("mlp.gate_proj", "mlp.up_proj"),
                    consumer="mlp.down_proj",
                    multiplier="residual_multiplier",
                ),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"},
)

PROVIDES = {"granite": GRANITE}
