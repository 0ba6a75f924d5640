"""EuroBERT: Llama's modules, but every token sees all others."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

EUROBERT = Architecture(
    description="pre-norm encoder with Llama's module names",
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
            pre_norm=True,
        ),
    ),
    stock={"num_key_value_heads": "head", "num_attention_heads": "query head", "intermediate_size": "neuron"},
)

PROVIDES = {"eurobert": EUROBERT}
