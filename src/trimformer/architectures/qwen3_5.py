"""Qwen3.5, its text model: most blocks have linear attention, which stays; queries have gates beside them."""

from dataclasses import replace
from typing import Any

from trimformer.model.description import Architecture, Attention, Chain, FeedForward, Layout
from trimformer.model.sites import Stream


class GatedAttention(Attention):
    """Attention whose query projection gives a gate of the same width behind each head's query."""

    def layout(self, config: Any) -> Layout:
        """Count the gates with the queries."""
        plain = super().layout(config)
        queries, *others = plain.parts
        return replace(plain, parts=(2 * queries, *others))


QWEN3_5 = Architecture(
    description="pre-norm decoder with Qwen3.5's gated and linear attention",
    chains=(
        Chain(
            blocks="layers",
            sublayers=(
                GatedAttention(
                    core="self_attn",
                    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    consumer="self_attn.o_proj",
                    when=("layer_types", "full_attention"),
                ),
                FeedForward(
                    producers=("mlp.gate_proj", "mlp.up_proj"),
                    consumer="mlp.down_proj",
                    residual=Stream("post_attention_layernorm"),
                ),
            ),
            causal=True,
            pre_norm=True,
        ),
    ),
    stock={"intermediate_size": "neuron"},
)

PROVIDES = {"qwen3_5_text": QWEN3_5}
