"""Encoders with BERT's modules whose norms come first: RoBERTa-PreLayerNorm, XLM-RoBERTa-XL, ESM, Megatron-BERT."""

from dataclasses import replace

from trimformer.model.sites import Architecture, Attention, Chain, FeedForward

BERT_PRE_NORM = Architecture(
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
                ),
                FeedForward(producers=("intermediate.dense",), consumer="output.dense"),
            ),
            pre_norm=True,
        ),
    ),
    stock={"intermediate_size": "neuron"},
)

ROBERTA_PRE_NORM = replace(BERT_PRE_NORM, positions_after_padding=True)

PROVIDES = {
    "megatron-bert": BERT_PRE_NORM,
    **dict.fromkeys(("roberta-prelayernorm", "xlm-roberta-xl", "esm"), ROBERTA_PRE_NORM),
}
