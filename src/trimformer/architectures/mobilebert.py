"""MobileBERT: narrow sublayers between bottlenecks, which stay; several feed-forward layers a block.

Queries and keys read one bottleneck, values the whole stream, and attention adds to another bottleneck.
"""

from typing import Any

from trimformer.model.description import Architecture, Attention, Chain, FeedForward
from trimformer.model.sites import Stream

VALUE = "attention.self.value"


def mobilebert(config: Any) -> Architecture:
    """Describe a model by its number of feed-forward layers, and by what the values read."""
    attention = Attention(
        core="attention.self",
        producers=("attention.self.query", "attention.self.key", VALUE),
        consumer="attention.output.dense",
        unaligned=(VALUE,) if config.use_bottleneck and not config.use_bottleneck_attention else (),
        residual=Stream("attention.output", argument=1),
        width="true_hidden_size",
        sizes={"num_attention_heads": "heads", "all_head_size": "features"},
        head_size="attention_head_size",
    )
    further = (
        FeedForward(
            name=f"ffn_{number}", producers=(f"ffn.{number}.intermediate.dense",), consumer=f"ffn.{number}.output.dense"
        )
        for number in range(config.num_feedforward_networks - 1)
    )
    last = FeedForward(producers=("intermediate.dense",), consumer="output.dense")
    return Architecture(
        description="post-norm encoder with MobileBERT's bottlenecks",
        chains=(Chain(blocks="encoder.layer", sublayers=(attention, *further, last)),),
        stock={"intermediate_size": "neuron"},
    )


PROVIDES = {"mobilebert": mobilebert}
