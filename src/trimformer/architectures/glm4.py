"""GLM 4: GLM's projections, with a norm before each sublayer and another of what it adds."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused

GLM4 = Architecture(
    description="decoder with GLM 4's norms before and after each sublayer",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                    norm="post_self_attn_layernorm",
                ),
                FeedForward(
                    producers=(Fused("mlp.gate_up_proj", parts=2),), consumer="mlp.down_proj", norm="post_mlp_layernorm"
                ),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"},
)

PROVIDES = {"glm4": GLM4}
