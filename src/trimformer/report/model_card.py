"""The model card: `README.md` of a checkpoint, with the facts of its manifest, as the Hugging Face hub reads it."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import ModelCardData

from trimformer.judging.manifest import Manifest
from trimformer.report import summary, units
from trimformer.report.headline import headline, kept
from trimformer.report.loading import FEATURES, kind_of, loading
from trimformer.report.render import render

README = "README.md"
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def model_card(facts: Manifest, *, sentences: bool = False) -> str:
    """Write the text of a checkpoint's README.md; with `sentences`, of one of sentence-transformers.

    Raises:
        DataError: the model was not pruned.
    """
    pruning, rows = facts.pruning, summary.metrics(facts)
    header = ModelCardData(
        library_name="sentence-transformers" if sentences else "transformers",
        base_model=_base_model(facts.origin.source),
        pipeline_tag=_task(pruning.model_class, sentences=sentences),
        tags=["trimformer", "pruning", "structured-pruning", pruning.method],
        metrics=[row.name for row in rows] or None,
    )
    body = render(
        "card.md",
        title=f"{summary.name(facts)}, pruned by {pruning.method}",
        model=facts.origin.shared.source or "a model",
        dynamic=facts.recipe is not None and facts.recipe.dynamic is not None,
        verdict=headline(facts),
        kept=kept(facts),
        warnings=summary.each_once([pruning.warnings]),
        shares=summary.shares(facts),
        remarks=summary.remarks(facts),
        metrics=rows,
        blocks=units.blocks(facts),
        loading=loading(facts, "this/folder", sentences=sentences),
        command=facts.origin.command,
        settings=summary.settings(facts),
    )
    return f"---\n{header.to_yaml()}\n---\n\n{body}"


def _base_model(source: str) -> str | None:
    """Give the dense model's name on the hub; None where it was a folder, or nobody named it."""
    return source if HUB_NAME.fullmatch(source) and not Path(source).exists() else None


def _task(model_class: str, *, sentences: bool) -> str:
    """Give the hub's name of what a model does."""
    task = kind_of(model_class).task
    return "sentence-similarity" if sentences and task == FEATURES else task
