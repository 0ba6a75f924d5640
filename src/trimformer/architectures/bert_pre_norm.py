"""Encoders with BERT's modules whose norms come first: RoBERTa-PreLayerNorm, XLM-RoBERTa-XL, ESM, Megatron-BERT."""

from dataclasses import replace

from trimformer.model.description import Architecture, Attention, Chain, FeedForward

WIDTH = "attention_head_size"


def _with_heads(head_size: str | None, *, divides: bool = False) -> Architecture:
    """Describe the encoders whose heads may be narrower than the config says, or may not."""
    return Architecture(
        description="pre-norm encoder with BERT's module names",
        chains=(
            Chain(
                blocks="encoder.layer",
                sublayers=(
                    Attention(
                        core="attention.self",
                        producers=("attention.self.query", "attention.self.key", "attention.self.value"),
                        consumer="attention.output.dense",
                        sizes={"num_attention_heads": "heads", "all_head_size": "features"},
                        head_size=head_size,
                        divides=divides,
                    ),
                    FeedForward(producers=("intermediate.dense",), consumer="output.dense"),
                ),
                pre_norm=True,
            ),
        ),
        stock={"intermediate_size": "neuron"},
    )


ROBERTA_PRE_NORM = replace(_with_heads(WIDTH), positions_after_padding=True)
ROTARY = replace(_with_heads(None), positions_after_padding=True)

PROVIDES = {
    "megatron-bert": _with_heads(WIDTH, divides=True),
    **dict.fromkeys(("roberta-prelayernorm", "xlm-roberta-xl"), ROBERTA_PRE_NORM),
    "esm": ROTARY,
}
