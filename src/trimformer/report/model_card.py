"""The model card: `README.md` of a checkpoint, with the facts of its manifest, as the Hugging Face hub reads it."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import ModelCardData

from trimformer.judging.manifest import Manifest
from trimformer.report import summary
from trimformer.report.render import render

README = "README.md"
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
"""The hub's name of what a model does, by the end of its class's name; any other class gives features."""


def model_card(facts: Manifest) -> str:
    """Write the text of a checkpoint's README.md.

    Raises:
        DataError: the model was not pruned.
    """
    pruning, rows = facts.pruning, summary.metrics(facts)
    header = ModelCardData(
        library_name="transformers",
        base_model=_base_model(facts.origin.source),
        pipeline_tag=_pipeline(pruning.model_class),
        tags=["trimformer", "pruning", "structured-pruning", pruning.method],
        metrics=[row.name for row in rows] or None,
    )
    body = render(
        "card.md",
        title=f"{summary.name(facts)}, pruned by {pruning.method}",
        model=facts.origin.source or "a model",
        verdict=summary.verdict(facts),
        warnings=summary.each_once([pruning.warnings]),
        shares=summary.shares(facts),
        remarks=summary.remarks(facts),
        metrics=rows,
        blocks=summary.blocks(facts),
        loading=summary.loading(facts, "this/folder"),
        command=facts.origin.command,
        settings=summary.settings(facts),
    )
    return f"---\n{header.to_yaml()}\n---\n\n{body}"


def _base_model(source: str) -> str | None:
    """Give the dense model's name on the hub; None where it was a folder, or nobody named it."""
    return source if HUB_NAME.fullmatch(source) and not Path(source).exists() else None


def _pipeline(model_class: str) -> str:
    return next((name for ending, name in PIPELINES.items() if model_class.endswith(ending)), "feature-extraction")
