"""Jina embeddings v3: XLM-RoBERTa with rotary positions and module names of its own."""

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

JINA_EMBEDDINGS_V3 = Architecture(
    description="post-norm encoder with Jina's module names",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                Attention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                ),
                FeedForward(producers=("mlp.fc1",), consumer="mlp.fc2"),
            ),
        ),
    ),
    stock={"num_attention_heads": "head", "intermediate_size": "neuron"},
)

PROVIDES = {"jina_embeddings_v3": JINA_EMBEDDINGS_V3}
