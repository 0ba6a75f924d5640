"""ModernBERT: one projection for query, key and value, one for gate and input, local attention in most layers."""

from trimformer.model.sites import Architecture, Attention, Chain, FeedForward, Fused

MODERNBERT = Architecture(
    description="pre-norm encoder with ModernBERT's fused projections",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="attn", producers=(Fused("attn.Wqkv", parts=3),), consumer="attn.Wo", windows="local_attention"
                ),
                FeedForward(producers=(Fused("mlp.Wi", parts=2),), consumer="mlp.Wo"),
            ),
            pre_norm=True,
        ),
    ),
    stock={"intermediate_size": "neuron"},
)

PROVIDES = {"modernbert": MODERNBERT}
