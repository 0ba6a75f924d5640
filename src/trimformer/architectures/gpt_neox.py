"""GPT-NeoX and Pythia: one projection is query, key and value, head by head; both sublayers read the block's input."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Fused

GPT_NEOX = Architecture(
    description="pre-norm decoder with GPT-NeoX's fused query, key and value, parallel residual or not",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="attention",
                    producers=(Fused("attention.query_key_value", parts=3, by_unit=True),),
                    consumer="attention.dense",
                ),
                FeedForward(producers=("mlp.dense_h_to_4h",), consumer="mlp.dense_4h_to_h"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"intermediate_size": "neuron"},
)

PROVIDES = {"gpt_neox": GPT_NEOX}
