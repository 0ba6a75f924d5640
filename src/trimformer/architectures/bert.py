"""BERT and the encoders that share its modules: RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA."""

from trimformer.model.sites import Architecture

BERT = Architecture(
    description="post-norm encoder with BERT's module names",
    blocks="encoder.layer",
    attention="attention.self",
    query_key_value=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_output="attention.output.dense",
    feed_forward=("intermediate.dense",),
    feed_forward_output="output.dense",
    head_counts={"num_attention_heads": "heads", "all_head_size": "features"},
    stock={"intermediate_size": "neuron"},
)

PROVIDES = dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), BERT)
