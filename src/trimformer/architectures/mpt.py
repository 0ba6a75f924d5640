"""MPT: fused query, key and value; positions are a bias for every head (ALiBi)."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused

MPT = Architecture(
    description="pre-norm decoder with MPT's module names and ALiBi",
    chains=(
        Chain(
            blocks="blocks",
            sublayers=(
                Attention(
                    core="attn",
                    producers=(Fused("attn.Wqkv", parts=3),),
                    consumer="attn.out_proj",
                    sizes={"n_heads": "heads"},
                    head_size="head_dim",
                    by_head={"position_bias": 0},
                ),
                FeedForward(producers=("ffn.up_proj",), consumer="ffn.down_proj"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
)

PROVIDES = {"mpt": MPT}
