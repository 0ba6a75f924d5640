"""An export of the command line: the model and, where its task is known, the rows to compare and judge it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from trimformer import plugins
from trimformer.cli import console
from trimformer.cli.steps import HUB
from trimformer.data.columns import naming_columns
from trimformer.data.encoding import encode_texts
from trimformer.export.folder import CHECK_TEXTS, evenly_chosen, export
from trimformer.judging.manifest import DENSE, Manifest, Origin
from trimformer.judging.metrics import RELATIVE, Metrics
from trimformer.judging.names import own_name
from trimformer.judging.task import Task, has_head
from trimformer.model import checkpoint
from trimformer.model.limits import fitted
from trimformer.model.manifest import plain, read_manifest
from trimformer.model.sentence_files import read_pooling, sentence_transformers_files
from trimformer.model.weights import weight_bytes
from trimformer.progress import Progress


def export_for(
    origin: Origin, target: Path, *, int8: bool, max_length: int | None, overwrite: bool, progress: Progress
) -> Mapping[str, Any]:
    """Write a model as ONNX, compared with PyTorch: judged on a task's rows, or on a few texts where there is none.

    Raises:
        TrimformerError: rows or a model that do not fit, or ONNX gives other answers.
    """
    model = origin.source
    pooling = read_pooling(model)
    chosen: Task | None = plugins.load("tasks", origin.task) if origin.task else None
    with naming_columns(origin.columns):
        rows = chosen.rows(origin.data or None, "validation") if chosen else None
    dense = checkpoint.load_model(model, chosen.auto_class if chosen else None)
    tokenizer = fitted(checkpoint.load_tokenizer(model), dense)
    named = origin.shared
    facts: dict[str, Any] = {"source": named.source, "task": origin.task or None, "data": named.data or None}
    if chosen and rows is not None:
        features = evenly_chosen(chosen.encode(rows, tokenizer, max_length))
        original = _original(model, chosen)
        judge = partial(
            chosen.evaluate,
            tokenizer=tokenizer,
            rows=rows,
            dense=original or dense,
            max_length=max_length,
            progress=progress,
        )
        facts["original"] = _known_of(model, facts) if original is None else _judged(original, model, judge)
        if original is None and facts["original"]:
            console.say(
                f"the original, {facts['original']['source']}, is not judged again: metrics are those in {model}"
            )
    else:
        features, judge = encode_texts([CHECK_TEXTS], tokenizer, max_length), None
    return export(
        dense,
        tokenizer,
        target,
        features,
        int8=int8,
        judge=judge,
        pooling=pooling,
        overwrite=overwrite,
        facts={name: value for name, value in facts.items() if name != "original" or value},
        progress=progress,
        extra_files=sentence_transformers_files(model),
    )


def _original(model: str, task: Task) -> PreTrainedModel | None:
    """Load the model that a checkpoint was pruned from, where its folder is still there, with the same tokens and head.

    One that was only fine-tuned is its own original.
    """
    known = Manifest.from_json({"model_class": ""} | read_manifest(model))
    source = own_name(known.origin.source)
    if not known.is_pruned or known.vocabulary or not source or not Path(source).is_dir():
        return None
    fits = task.auto_class == "AutoModel" or has_head(source, task)
    return checkpoint.load_model(source, task.auto_class) if fits else None


def _judged(original: PreTrainedModel, model: str, judge: Callable[[Any], Metrics]) -> dict[str, Any]:
    """Judge the original on the same rows."""
    source = Origin.from_json(read_manifest(model)).source
    size = weight_bytes(original, checkpoint.stored_dtype(own_name(source)))
    return {"source": source, "megabytes": round(size / 1e6, 1), "metrics": plain(judge(original))}


def _known_of(model: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """Look up what the manifest knows of the original on the same rows; None where it was judged on others."""
    manifest = read_manifest(model)
    origin = Origin.from_json(manifest)
    metrics = manifest.get("metrics", {}).get(DENSE, {})
    absolute = {name: metric for name, metric in metrics.items() if name not in RELATIVE}
    if not absolute or (origin.task, origin.data) != (asked["task"], asked["data"] or HUB):
        return None
    return {
        "source": origin.source,
        "megabytes": round(manifest.get("bytes", {}).get("before", 0) / 1e6, 1),
        "metrics": absolute,
    }
