"""GPTBigCode, such as StarCoder and SantaCoder: GPT-2 whose heads share one key and value head, or have their own."""

from typing import Any

from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused


def gpt_bigcode(config: Any) -> Architecture:
    """Describe the layout: by query head, with key and value behind, or query, key and value head by head."""
    shared = {"embed_dim": "features", "num_key_value_groups": "heads"} if config.multi_query else {}
    parts = 1 if config.multi_query else 3
    return Architecture(
        description="pre-norm decoder with GPTBigCode's fused query, key and value",
        chains=(
            Chain(
                blocks="h",
                sublayers=(
                    Attention(
                        core="attn",
                        producers=(Fused("attn.c_attn", parts, by_unit=not config.multi_query, shared=3 - parts),),
                        consumer="attn.c_proj",
                        multi_query=config.multi_query,
                        sizes={"num_heads": "heads"} | shared,
                    ),
                    FeedForward(producers=("mlp.c_fc",), consumer="mlp.c_proj"),
                ),
                causal=True,
                pre_norm=True,
            ),
        ),
        stock={"n_inner": "neuron"},
    )


PROVIDES = {"gpt_bigcode": gpt_bigcode}
