"""Phi-3 and Phi-4: query, key and value in one projection, gate and up in another."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused

PHI3 = Architecture(
    description="pre-norm decoder with Phi-3's fused query, key and value, and fused gate",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=(Fused("self_attn.qkv_proj", parts=3),),
                    consumer="self_attn.o_proj",
                    sizes={"num_key_value_heads": "heads", "config.num_attention_heads": "query heads"},
                ),
                FeedForward(producers=(Fused("mlp.gate_up_proj", parts=2),), consumer="mlp.down_proj"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"},
)

PROVIDES = {"phi3": PHI3}
