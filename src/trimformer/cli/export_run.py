"""An export of the command line: the model and, where its task is known, the rows to compare and judge it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trimformer import plugins
from trimformer.data.columns import naming_columns
from trimformer.data.encoding import encode_texts
from trimformer.errors import InvalidOption
from trimformer.export.folder import CHECK_TEXTS, evenly_chosen, export
from trimformer.export.onnx.pooling import read_pooling
from trimformer.judging.manifest import Origin
from trimformer.judging.task import Task
from trimformer.model import checkpoint
from trimformer.model.limits import fitted
from trimformer.model.manifest import read_manifest
from trimformer.progress import Progress


def judged_on(model: str, task: str | None, data: str | None, columns: Mapping[str, str]) -> Origin:
    """Say what a model's export is judged on: the task and rows given, else those that the model was pruned for.

    The task is empty where none is given, and the manifest names no rows that are still on this machine.

    Raises:
        InvalidOption: rows are given, but nothing says for which task.
    """
    if task is not None:
        return Origin(source=model, task=task, data=data or "", columns=columns)
    known = Origin.from_json(read_manifest(model))
    if data is not None:
        if not known.task:
            raise InvalidOption(f"`data` needs `task`: {model} does not say what it was pruned for")
        return Origin(source=model, task=known.task, data=data, columns=columns)
    if not known.data or not Path(known.data).exists():
        return Origin(source=model)
    return replace(known, source=model, columns=columns or known.columns)


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
        facts={"source": model, "task": origin.task or None, "data": origin.data or None},
        progress=progress,
        extra_files=checkpoint.sentence_transformers_files(model),
    )
