"""GPT-2, DistilGPT-2 among its checkpoints: one projection gives queries, keys and values; weights are transposed."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused

GPT2 = Architecture(
    description="pre-norm decoder with GPT-2's fused query, key and value",
    chains=(
        Chain(
            blocks="h",
            sublayers=(
                Attention(
                    core="attn",
                    producers=(Fused("attn.c_attn", parts=3),),
                    consumer="attn.c_proj",
                    sizes={"num_heads": "heads", "split_size": "features"},
                    head_size="head_dim",
                ),
                FeedForward(producers=("mlp.c_fc",), consumer="mlp.c_proj"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"n_inner": "neuron"},
)

PROVIDES = {"gpt2": GPT2}
