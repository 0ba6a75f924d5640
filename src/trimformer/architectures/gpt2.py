"""GPT-2, DistilGPT-2 among its checkpoints: one projection gives queries, keys and values; weights are transposed."""

from trimformer.model.sites import Architecture

GPT2 = Architecture(
    description="pre-norm decoder with GPT-2's fused query, key and value",
    blocks="h",
    attention="attn",
    query_key_value=("attn.c_attn",),
    fused="thirds",
    attention_output="attn.c_proj",
    feed_forward=("mlp.c_fc",),
    feed_forward_output="mlp.c_proj",
    head_counts={"num_heads": "heads", "split_size": "features"},
    causal=True,
    pre_norm=True,
    stock={"n_inner": "neuron"},
)

PROVIDES = {"gpt2": GPT2}
