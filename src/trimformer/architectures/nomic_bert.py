"""NomicBERT and GTE: post-norm encoders with Llama's names, rotary positions and gated feed-forward layers."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

NOMIC_BERT = Architecture(
    description="post-norm encoder with gated feed-forward layers and Llama's module names",
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
        ),
    ),
    stock={"num_attention_heads": "head", "intermediate_size": "neuron"},
)

PROVIDES = dict.fromkeys(("nomic_bert", "gte"), NOMIC_BERT)
