"""DeBERTa v2 and v3: attention to contents and to positions, which have projections of their own or share those.

A map of the sublayer's input cannot be folded into a projection that reads embeddings of positions as well, so that
only the values' is aligned where they share.
"""

from typing import Any

from trimformer.errors import UnsupportedModel
from trimformer.model.description import Architecture, Attention, Chain, FeedForward

QUERY, KEY, VALUE = (f"attention.self.{name}_proj" for name in ("query", "key", "value"))
OF_POSITIONS = {"c2p": "attention.self.pos_key_proj", "p2c": "attention.self.pos_query_proj"}


def deberta_v2(config: Any) -> Architecture:
    """Describe a model by how it attends to positions."""
    if getattr(config, "conv_kernel_size", 0):
        raise UnsupportedModel("this DeBERTa has a convolution beside its first layer (conv_kernel_size)")
    used = [name for name in OF_POSITIONS if config.relative_attention and name in (config.pos_att_type or ())]
    own = () if getattr(config, "share_att_key", False) else tuple(OF_POSITIONS[name] for name in used)
    longest = config.max_relative_positions if config.max_relative_positions > 0 else config.max_position_embeddings
    span = getattr(config, "position_buckets", -1)
    attention = Attention(
        core="attention.self",
        producers=(QUERY, KEY, VALUE, *own),
        consumer="attention.output.dense",
        unaligned=(QUERY, KEY) if used and not own else (),
        of_positions=own,
        positions=2 * (span if span > 0 else longest) * len(used),
        sizes={"num_attention_heads": "heads", "all_head_size": "features"},
    )
    ffn = FeedForward(producers=("intermediate.dense",), consumer="output.dense")
    return Architecture(
        description="post-norm encoder with DeBERTa's attention to contents and positions",
        chains=(Chain(blocks="encoder.layer", sublayers=(attention, ffn)),),
        stock={"intermediate_size": "neuron"},
    )


PROVIDES = {"deberta-v2": deberta_v2}
