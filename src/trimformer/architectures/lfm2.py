"""LFM2: most blocks have a short convolution, which stays, in place of attention."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward
from trimformer.model.sites import Stream

LFM2 = Architecture(
    description="pre-norm decoder with LFM2's attention and convolutions",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.out_proj",
                    when=("layer_types", "full_attention"),
                ),
                FeedForward(
                    producers=("feed_forward.w1", "feed_forward.w3"),
                    consumer="feed_forward.w2",
                    residual=Stream("ffn_norm"),
                ),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
)

PROVIDES = {"lfm2": LFM2}
