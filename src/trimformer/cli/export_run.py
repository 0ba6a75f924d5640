"""An export of the command line: the model and, where its task is known, the rows to compare and judge it on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from trimformer import plugins
from trimformer.data.encoding import encode_texts
from trimformer.errors import InvalidOption
from trimformer.export.folder import CHECK_TEXTS, evenly_chosen, export
from trimformer.judging.manifest import Origin
from trimformer.judging.task import Task
from trimformer.model import checkpoint
from trimformer.model.limits import fitted
from trimformer.model.manifest import read_manifest
from trimformer.model.pooling import read_pooling
from trimformer.progress import Progress


def pruned_for(model: str, data: str | None) -> tuple[str | None, str | None]:
    """Look up the task that a model was pruned for, with the rows given, else with those it was pruned on.

    Both are None where no rows are given, and the manifest names none that are still on this machine.

    Raises:
        InvalidOption: rows are given, but nothing says for which task.
    """
    origin = Origin.from_json(read_manifest(model))
    if data is not None:
        if not origin.task:
            raise InvalidOption(f"`data` needs `task`: {model} does not say what it was pruned for")
        return origin.task, data
    return (origin.task or None, origin.data) if origin.data and Path(origin.data).exists() else (None, None)


def export_for(
    task: str | None,
    data: str | None,
    model: str,
    target: Path,
    *,
    int8: bool,
    max_length: int | None,
    overwrite: bool,
    progress: Progress,
) -> Mapping[str, Any]:
    """Write a model as ONNX, compared with PyTorch and judged on a task's rows, or compared on a few texts if None.

    Raises:
        TrimformerError: rows or a model that do not fit, or ONNX gives other answers.
    """
    pooling = read_pooling(model)
    chosen: Task | None = plugins.load("tasks", task) if task else None
    rows = chosen.rows(data, "validation") if chosen else None
    dense = checkpoint.load_model(model, chosen.auto_class if chosen else None)
    tokenizer = fitted(checkpoint.load_tokenizer(model), dense)
    if chosen and rows is not None:
        features = evenly_chosen(chosen.encode(rows, tokenizer, max_length))
        judge = partial(
            chosen.evaluate, tokenizer=tokenizer, rows=rows, dense=dense, max_length=max_length, progress=progress
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
        facts={"source": model, "task": task, "data": data},
        progress=progress,
        extra_files=checkpoint.sentence_transformers_files(model),
    )
