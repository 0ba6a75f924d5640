"""GPT-J: attention and FFN side by side."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

GPTJ = Architecture(
    description="pre-norm decoder with GPT-J's module names, parallel residual",
    chains=(
        Chain(
            blocks="h",
            sublayers=(
                Attention(
                    core="attn",
                    producers=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
                    consumer="attn.out_proj",
                    sizes={"num_attention_heads": "heads"},
                ),
                FeedForward(producers=("mlp.fc_in",), consumer="mlp.fc_out"),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"n_inner": "neuron"},
)

PROVIDES = {"gptj": GPTJ}
