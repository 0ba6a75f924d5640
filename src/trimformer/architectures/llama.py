"""Llama and the decoders that share its modules, such as Mistral, Qwen2, Qwen3, Gemma, SmolLM3 and OLMo 1.

Gated FFN, grouped key and value heads; both sublayers one after the other, or side by side as in Cohere. Norms of
queries and keys, as Qwen3 has them, are the same for every head and stay.
"""

from dataclasses import replace
from typing import Any

from trimformer.errors import UnsupportedModel
from trimformer.model.description import Architecture, Attention, Chain, FeedForward
from trimformer.model.query_heads import by_query_head

LLAMA = Architecture(
    description="pre-norm decoder with Llama's module names",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                ),
                FeedForward(producers=("mlp.gate_proj", "mlp.up_proj"), consumer="mlp.down_proj"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"},
)

ONE_KEY_VALUE_HEAD = by_query_head(LLAMA)
HELIUM = replace(LLAMA, stock={"intermediate_size": "neuron"})

SHARING = (
    *("llama", "mistral", "ministral", "ministral3", "qwen2", "qwen3", "gemma", "vaultgemma", "smollm3", "olmo"),
    *("cohere2", "cwm", "ernie4_5", "hunyuan_v1_dense", "seed_oss"),
)


def llama(config: Any) -> Architecture:
    """Choose by the number of key and value heads."""
    return ONE_KEY_VALUE_HEAD if config.num_key_value_heads == 1 < config.num_attention_heads else LLAMA


def cohere(config: Any) -> Architecture:
    """Refuse norms of queries and keys that have weights for every head."""
    if config.use_qk_norm:
        raise UnsupportedModel(
            "use_qk_norm=True: the norms of queries and keys have weights for every head, not cut here"
        )
    return llama(config)


PROVIDES = {**dict.fromkeys(SHARING, llama), "cohere": cohere, "helium": HELIUM}
