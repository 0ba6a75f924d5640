"""OPT; its 350m has the norms after the sublayers, as BERT has."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

OPT = Architecture(
    description="decoder with OPT's module names, pre-norm or post-norm",
    chains=(
        Chain(
            blocks="decoder.layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.out_proj",
                    head_size="head_dim",
                    sizes={"num_heads": "heads"},
                ),
                FeedForward(producers=("fc1",), consumer="fc2"),
            ),
            causal=True,
            pre_norm="do_layer_norm_before",
        ),
    ),
    stock={"ffn_dim": "neuron"},
)

PROVIDES = {"opt": OPT}
