"""Llama and the decoders that share its modules: Mistral, Qwen2, Qwen3, Gemma. Gated FFN, grouped key and value heads.

Qwen3's norms of queries and keys are the same for every head and stay. Gemma 2 and 3 are built otherwise: they
normalise what a sublayer adds.
"""

from trimformer.model.sites import Architecture, Attention, Chain, FeedForward

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

PROVIDES = dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), LLAMA)
