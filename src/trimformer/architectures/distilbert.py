"""DistilBERT: BERT's sublayers under other names; the attention module holds its own output projection."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

DISTILBERT = Architecture(
    description="post-norm encoder with DistilBERT's module names",
    chains=(
        Chain(
            blocks="transformer.layer",
            sublayers=(
                Attention(
                    core="attention",
                    producers=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
                    consumer="attention.out_lin",
                    sizes={"n_heads": "heads"},
                    head_size="attention_head_size",
                ),
                FeedForward(producers=("ffn.lin1",), consumer="ffn.lin2"),
            ),
        ),
    ),
    stock={"hidden_dim": "neuron"},
)

PROVIDES = {"distilbert": DISTILBERT}
