"""OLMo 2 and 3, EXAONE 4: Llama's projections; the only norms of a block are those of what its sublayers add.

OLMo's norms of queries and keys go over all heads, which can therefore be removed together only.
"""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward


def norms_after(stock: dict[str, str], *, tied: bool) -> Architecture:
    """Describe the layout, with heads that are tied to each other or not."""
    return Architecture(
        description="decoder with norms of what is added only",
        chains=(
            Chain(
                blocks="layers",
                sublayers=(
                    Attention(
                        core="self_attn",
                        producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                        consumer="self_attn.o_proj",
                        tied=tied,
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
        stock=stock,
    )


OLMO2 = norms_after({"intermediate_size": "neuron"}, tied=True)
EXAONE4 = norms_after(
    {"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"}, tied=False
)

PROVIDES = {"olmo2": OLMO2, "olmo3": OLMO2, "exaone4": EXAONE4}
