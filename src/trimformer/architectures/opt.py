"""OPT; its 350m has the norms after the sublayers, as BERT has."""

from trimformer.model.sites import Architecture

OPT = Architecture(
    description="decoder with OPT's module names, pre-norm or post-norm",
    blocks="decoder.layers",
    attention="self_attn",
    query_key_value=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.out_proj",
    feed_forward=("fc1",),
    feed_forward_output="fc2",
    head_counts={"num_heads": "heads"},
    causal=True,
    pre_norm="do_layer_norm_before",
    stock={"ffn_dim": "neuron"},
)

PROVIDES = {"opt": OPT}
