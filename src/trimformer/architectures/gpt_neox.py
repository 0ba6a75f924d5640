"""GPT-NeoX and Pythia: one projection is query, key and value, head by head; both sublayers read the block's input."""

from trimformer.model.sites import Architecture

GPT_NEOX = Architecture(
    description="pre-norm decoder with GPT-NeoX's fused query, key and value, parallel residual or not",
    blocks="layers",
    attention="attention",
    query_key_value=("attention.query_key_value",),
    fused="by head",
    attention_output="attention.dense",
    feed_forward=("mlp.dense_h_to_4h",),
    feed_forward_output="mlp.dense_4h_to_h",
    causal=True,
    pre_norm=True,
    stock={"intermediate_size": "neuron"},
)

PROVIDES = {"gpt_neox": GPT_NEOX}
