"""EXAONE 4: Llama's projections; the only norms of a block are those of what its sublayers add."""

from trimformer.model.sites import Architecture, Attention, Chain, FeedForward

EXAONE4 = Architecture(
    description="decoder with norms of what is added only",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                    norm="post_attention_layernorm",
                ),
                FeedForward(
                    producers=("mlp.gate_proj", "mlp.up_proj"),
                    consumer="mlp.down_proj",
                    norm="post_feedforward_layernorm",
                ),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"},
)

PROVIDES = {"exaone4": EXAONE4}
