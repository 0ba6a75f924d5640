"""MPNet: BERT's sublayers under other names, with one table of position biases for the heads of all layers."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

MPNET = Architecture(
    description="post-norm encoder with MPNet's module names and shared position bias",
    chains=(
        Chain(
            blocks="encoder.layer",
            sublayers=(
                Attention(
                    core="attention.attn",
                    producers=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
                    consumer="attention.attn.o",
                    sizes={"num_attention_heads": "heads", "all_head_size": "features"},
                    head_size="attention_head_size",
                    divides=True,
                    by_head={"position_bias": 1},
                ),
                FeedForward(producers=("intermediate.dense",), consumer="output.dense"),
            ),
        ),
    ),
    stock={"intermediate_size": "neuron"},
    positions_after_padding=True,
)

PROVIDES = {"mpnet": MPNET}
