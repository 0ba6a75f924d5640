"""Falcon: one projection is query, key and value, by head, by group, or with one key and value head behind."""

from typing import Any

from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused


def falcon(config: Any) -> Architecture:
    """Describe the layout that the config asks for; the newest keeps keys and values of every query head in caches."""
    grouped, shared = config.new_decoder_architecture, config.multi_query and not config.new_decoder_architecture
    parts = 1 if shared else 3
    groups = {"num_heads": "query heads"} | ({} if shared else {"num_kv_heads": "heads"})
    return Architecture(
        description="pre-norm decoder with Falcon's fused query, key and value",
        chains=(
            Chain(
                blocks="h",
                sublayers=(
                    Attention(
                        core="self_attention",
                        producers=(
                            Fused("self_attention.query_key_value", parts, by_unit=not shared, shared=3 - parts),
                        ),
                        consumer="self_attention.dense",
                        multi_query=shared,
                        key_value_heads="num_kv_heads" if grouped else "num_attention_heads",
                        cached="query heads",
                        sizes=groups,
                        by_head={"alibi": 1, "attention_mask": 1} if config.alibi else {},
                    ),
                    FeedForward(producers=("mlp.dense_h_to_4h",), consumer="mlp.dense_4h_to_h"),
                ),
                causal=True,
                pre_norm=True,
            ),
        ),
        stock={"ffn_hidden_size": "neuron"},
    )


PROVIDES = {"falcon": falcon}
