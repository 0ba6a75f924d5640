"""GLM: Llama's modules, gate and up projection fused."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused

GLM = Architecture(
    description="pre-norm decoder with GLM's module names",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                ),
                FeedForward(producers=(Fused("mlp.gate_up_proj", parts=2),), consumer="mlp.down_proj"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"},
)

PROVIDES = {"glm": GLM}
