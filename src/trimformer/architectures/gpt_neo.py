"""GPT-Neo: GPT-2 with single projections, and windows in every second block."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

GPT_NEO = Architecture(
    description="pre-norm decoder with GPT-Neo's module names",
    chains=(
        Chain(
            blocks="h",
            sublayers=(
                Attention(
                    core="attn.attention",
                    producers=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
                    consumer="attn.attention.out_proj",
                    sizes={"num_heads": "heads"},
                    head_size="head_dim",
                    windows="window_size",
                    windowed=("attention_layers", ("local",)),
                ),
                FeedForward(producers=("mlp.c_fc",), consumer="mlp.c_proj"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"intermediate_size": "neuron"},
)

PROVIDES = {"gpt_neo": GPT_NEO}
