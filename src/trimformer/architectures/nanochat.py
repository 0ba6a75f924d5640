"""nanochat: Llama's attention, an FFN without gate."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

NANOCHAT = Architecture(
    description="pre-norm decoder with nanochat's module names",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                ),
                FeedForward(producers=("mlp.fc1",), consumer="mlp.fc2"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"},
)

PROVIDES = {"nanochat": NANOCHAT}
