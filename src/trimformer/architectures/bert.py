"""BERT and the encoders that share its modules: RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA."""

from dataclasses import replace

from trimformer.model.sites import Architecture, Attention, Chain, FeedForward

BERT = Architecture(
    description="post-norm encoder with BERT's module names",
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
        ),
    ),
    stock={"intermediate_size": "neuron"},
)

ROBERTA = replace(BERT, positions_after_padding=True)

PROVIDES = {"bert": BERT, "electra": BERT, **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), ROBERTA)}
