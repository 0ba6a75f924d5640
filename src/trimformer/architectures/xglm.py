"""XGLM and BioGPT: the decoder of BART and OPT, without a module around it."""

from dataclasses import replace

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

XGLM = Architecture(
    description="pre-norm decoder with BART's module names",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.out_proj",
                    head_size="head_dim",
                    sizes={"num_heads": "heads", "embed_dim": "features"},
                ),
                FeedForward(producers=("fc1",), consumer="fc2"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"ffn_dim": "neuron"},
)

BIOGPT = replace(XGLM, stock={"intermediate_size": "neuron"})

PROVIDES = {"xglm": XGLM, "biogpt": BIOGPT}
