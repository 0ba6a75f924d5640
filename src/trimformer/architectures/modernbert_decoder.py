"""The decoder of ModernBERT: gate and up projection fused, windows in most blocks."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused

MODERNBERT_DECODER = Architecture(
    description="pre-norm decoder with ModernBERT's module names",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(core="attn", producers=("attn.q_proj", "attn.k_proj", "attn.v_proj"), consumer="attn.Wo"),
                FeedForward(producers=(Fused("mlp.Wi", parts=2),), consumer="mlp.Wo"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"intermediate_size": "neuron"},
)

PROVIDES = {"modernbert-decoder": MODERNBERT_DECODER}
