"""DistilBERT: BERT's sublayers under other names; the attention module holds its own output projection."""

from trimformer.model.sites import Architecture

DISTILBERT = Architecture(
    description="post-norm encoder with DistilBERT's module names",
    blocks="transformer.layer",
    attention="attention",
    query_key_value=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    attention_output="attention.out_lin",
    feed_forward=("ffn.lin1",),
    feed_forward_output="ffn.lin2",
    head_counts={"n_heads": "heads"},
    stock={"hidden_dim": "neuron"},
)

PROVIDES = {"distilbert": DISTILBERT}
