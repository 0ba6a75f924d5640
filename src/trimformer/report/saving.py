"""A model with what was done to it, as a folder: checkpoint, manifest and model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.errors import InvalidOption
from trimformer.judging.manifest import DenseFacts, Manifest, Origin
from trimformer.model import checkpoint
from trimformer.model.arguments import check_flag, check_mapping, check_path, check_tokenizer, check_torch_dtype, told
from trimformer.model.manifest import read_manifest
from trimformer.model.refusals import check_kind
from trimformer.pruning.facts import ParameterFacts, PruningFacts
from trimformer.pruning.result import PruningResult
from trimformer.report.loading import SENTENCE_TRANSFORMERS
from trimformer.report.model_card import README, model_card
from trimformer.vocabulary.facts import BeforeAfter, VocabularyFacts
from trimformer.vocabulary.trim import Trimmed


def save(
    model: PreTrainedModel,
    out: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    manifest: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
    extra_files: Mapping[str, Path] | None = None,
) -> Path:
    """Write a checkpoint that appears whole or not at all.

    Everything is written to a folder beside `out`, which takes its place at the end. Before that the new checkpoint is
    read back and compared with the model, weight by weight.

    Args:
        model: dense or pruned.
        out: the folder to make.
        tokenizer: saved along.
        manifest: what was done, saved as `trimformer.json`; that of a pruning result as a model card too.
        overwrite: replace an existing folder.
        dtype: store floating-point weights in this precision; None stores them as they are. What loads them decides
            in which precision it computes: by the config, the model's own.
        extra_files: files to copy along, by their path below `out`.

    Raises:
        InvalidOption: an argument of another kind; says what to give.
        CheckpointError: the folder exists and `overwrite` is not set, or it cannot be written.
        DataError: a manifest with a budget that is not one of this package; names what is missing or wrong.
    """
    check_kind(model)
    check_path("out", out)
    check_tokenizer(tokenizer)
    check_manifest(manifest)
    check_flag("overwrite", overwrite)
    check_torch_dtype(dtype)
    check_files(extra_files)
    return checkpoint.write(
        model,
        out,
        tokenizer=tokenizer,
        manifest=manifest,
        texts=_card(manifest, extra_files or {}),
        overwrite=overwrite,
        dtype=dtype,
        extra_files=extra_files,
    )


def check_manifest(given: Any) -> None:
    """Refuse what cannot be written as `trimformer.json`; None writes none.

    Raises:
        InvalidOption: it is no dictionary, or something in it is not of JSON; says what to give.
    """
    if isinstance(given, (PruningResult, PruningFacts, VocabularyFacts, Trimmed)):
        raise InvalidOption(f"`manifest={told(given)}` must be a dictionary: give result.manifest")
    check_mapping("manifest", given, "result.manifest")
    strange = next((name for name, value in (given or {}).items() if not _is_json(value)), None)
    if strange is not None:
        raise InvalidOption(f"`manifest` has {strange!r}, which cannot be written as JSON: give numbers, texts, lists")


def _is_json(value: Any) -> bool:
    """Tell whether a value can be written as JSON."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def check_files(given: Any) -> None:
    """Refuse files to copy that are not there; None copies none.

    Raises:
        InvalidOption: it is no dictionary of paths, or names one that is not there.
    """
    check_mapping("extra_files", given, '{"modules.json": Path("model/modules.json")}')
    for name, file in (given or {}).items():
        check_path("extra_files", file)
        if not Path(file).is_file():
            raise InvalidOption(f"`extra_files` has {name!r}, and there is no file {file}: check the path")


def _card(manifest: Mapping[str, Any] | None, extra_files: Mapping[str, Path]) -> dict[str, str]:
    """Make the model card of a pruned model; nothing of another one."""
    if manifest is None or "budget" not in manifest:
        return {}
    return {README: model_card(Manifest.from_json(dict(manifest)), sentences=SENTENCE_TRANSFORMERS in extra_files)}


def trimmed_manifest(trimmed: Trimmed, source: str, command: str) -> dict[str, Any]:
    """Make the manifest of a model with a trimmed vocabulary: the one that it had, with that added.

    Args:
        trimmed: the model, with its facts.
        source: folder or hub name of the model as given.
        command: command line that can be typed again.

    Raises:
        DataError: the folder has a manifest that is damaged.
    """
    facts, before = trimmed.facts, read_manifest(source)
    if "budget" not in before:
        dense = DenseFacts(model_class=type(trimmed.model).__name__)
        return Manifest(model=dense, vocabulary=facts, origin=Origin(source=source, command=command)).as_json()
    known = Manifest.from_json(before)
    parameters = ParameterFacts(dense=known.pruning.parameters.dense, pruned=facts.parameters.after)
    dense_bytes = known.bytes.before if known.bytes else facts.bytes.before
    return replace(
        known,
        model=replace(known.pruning, parameters=parameters),
        vocabulary=facts,
        bytes=BeforeAfter(before=dense_bytes, after=facts.bytes.after),
    ).as_json()
