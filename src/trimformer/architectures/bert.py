"""BERT and the encoders that share its modules: RoBERTa and its relatives, ELECTRA, ERNIE, RoFormer, LayoutLM, ….

XMOD has language adapters behind what the feed-forward layer adds; they stay as they are.
"""

from dataclasses import replace
from typing import Any

from trimformer.errors import UnsupportedModel
from trimformer.model.description import Architecture, Attention, Chain, FeedForward

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
                    head_size="attention_head_size",
                ),
                FeedForward(producers=("intermediate.dense",), consumer="output.dense"),
            ),
        ),
    ),
    stock={"intermediate_size": "neuron"},
)


def _with_attention(**changed: Any) -> Architecture:
    """Describe BERT with attention that differs in some fields."""
    attention, *others = BERT.chains[0].sublayers
    varied = (replace(attention, **changed), *others)
    return replace(BERT, chains=(replace(BERT.chains[0], sublayers=varied),))


DIVIDING = _with_attention(divides=True)
ROTARY = _with_attention(head_size=None)
ROBERTA = replace(BERT, positions_after_padding=True)
XMOD = replace(ROBERTA, chains=(replace(BERT.chains[0], pre_norm="pre_norm"),))


def big_bird(config: Any) -> Architecture:
    """Describe a BigBird that attends to all tokens: the other kind reads numbers of heads from its config."""
    if config.attention_type != "original_full":
        raise UnsupportedModel("BigBird's sparse attention cannot be cut: load it with attention_type='original_full'")
    return DIVIDING


PROVIDES = {
    **dict.fromkeys(("bert", "electra", "ernie", "layoutlm", "roc_bert", "splinter"), BERT),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "data2vec-text", "markuplm"), ROBERTA),
    "bert-generation": BERT,
    "rembert": DIVIDING,
    "roformer": ROTARY,
    "xmod": XMOD,
    "big_bird": big_bird,
}
