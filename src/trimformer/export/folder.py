"""A checkpoint as ONNX, compared with PyTorch before it counts as done; and as int8, measured by a task's metrics."""

from __future__ import annotations

import copy
import inspect
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.batches import make_batches, real_tokens, shape
from trimformer.data.rows import TOKEN_MASK, TOKENS, Batch, Features
from trimformer.errors import NumericalError
from trimformer.export.onnx.graph import OPSET, outputs_of, to_onnx
from trimformer.export.onnx.int8 import quantize
from trimformer.export.onnx.model import FLOAT, INT8, PACKAGES, OnnxModel, require_onnx
from trimformer.judging.metrics import Metrics
from trimformer.model.checkpoint import check_writable
from trimformer.model.folders import whole_folder
from trimformer.model.limits import check_rows
from trimformer.model.manifest import as_text, plain, versions
from trimformer.model.offload import check_finite_weights
from trimformer.model.pooling import Pooling
from trimformer.model.trimformer_checks import digest_of_file
from trimformer.observing.watching import frozen
from trimformer.progress import Progress

LIMIT = 1e-4
"""Largest difference that an output in ONNX Runtime may have from that in PyTorch."""
FACTS = "export.json"
NOT_OF_AN_EXPORT = ("quantization_config", "auto_map")
COMPARED_ROWS = 64
CHECK_TEXTS = [
    "Rain.",
    "The ferry to the island leaves twice a day, and on Sundays only if the sea is calm.",
    "She read the letter again: “Nothing is lost, nothing is won, and the garden needs water.”",
    "Order #4711 (2 chairs, 1 table) was sent on 3 May to 12 Mill Road; it cost £89.50 and came a week late, damaged.",
]
"""Texts to compare on where the user gives no rows."""


def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: str | Path,
    features: Sequence[Features],
    *,
    int8: bool = False,
    judge: Callable[[Any], Metrics] | None = None,
    pooling: Pooling | None = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    extra_files: Mapping[str, Path] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the model as ONNX into a folder that appears whole or not at all; give the facts stored there.

    Args:
        model: an encoder, dense or pruned, with any task head; stays as it is.
        tokenizer: of the model, saved along; says which inputs the graph has.
        out: the folder to make.
        features: encoded rows on which the outputs are compared with PyTorch's.
        int8: write an int8 file as well.
        judge: computes the metrics of a model, for each file.
        pooling: adds the output `embedding`.
        facts: what else to write down.
        overwrite: replace an existing export.
        extra_files: files to copy along, by their path below `out`.
        progress: wraps a sequence to show a bar.

    Raises:
        InvalidOption: the extra `onnx` is not installed.
        CheckpointError: the folder exists and `overwrite` is not set, or it cannot be written.
        UnsupportedModel: a decoder, or an operator that ONNX does not have; names the site.
        DataError: rows with tokens that the model does not know.
        NumericalError: a weight is NaN or infinite, or an output differs from PyTorch's by more than `LIMIT`, or
            so much of its largest number where that is above 1; int8 is not held to that.
    """
    require_onnx()
    check_finite_weights(model)
    target = Path(out)
    free = partial(check_writable, target, overwrite=overwrite, weights="*.onnx")
    check_rows(features, tokenizer, model.config)
    files = [FLOAT, INT8] if int8 else [FLOAT]
    found: dict[str, Any] = {**(facts or {}), "opset": OPSET, "versions": _versions(), "files": {}}
    with whole_folder(target, free) as new:
        new.mkdir()
        for name in files if progress is None else progress(files, "exporting"):
            if name == FLOAT:
                to_onnx(model, new / name, _inputs(model, tokenizer), pooling)
            else:
                quantize(new / FLOAT, new / name)
            exported = OnnxModel(new / name, model.config)
            about: dict[str, Any] = {"megabytes": round((new / name).stat().st_size / 1e6, 1)}
            about["sha256"] = digest_of_file(new / name)
            about |= compare(model, exported, make_batches(features, tokenizer, model.device), pooling)
            if name == FLOAT:
                _check(about["max_difference"], about["max_output"], target)
            found["files"][name] = about | ({"metrics": plain(judge(exported))} if judge else {})
        found |= {"inputs": exported.inputs, "outputs": exported.outputs}
        tokenizer.save_pretrained(new)
        _config(model).save_pretrained(new)
        for path, source in (extra_files or {}).items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, new / path)
        (new / FACTS).write_text(as_text(found), encoding="utf-8")
    return found


def evenly_chosen(features: Sequence[Features]) -> list[Features]:
    """Choose at most 64 rows, at even steps from the first on."""
    step = max(1, len(features) // COMPARED_ROWS)
    return list(features[::step][:COMPARED_ROWS])


@torch.no_grad()
def compare(
    model: PreTrainedModel, exported: OnnxModel, batches: Sequence[Batch], pooling: Pooling | None = None
) -> dict[str, Any]:
    """Find the largest difference of any number of any output, and the largest number; count what was compared."""
    differences, sizes = list[torch.Tensor](), list[torch.Tensor]()
    with frozen(model):
        for batch in batches:
            found = exported(**batch)
            outputs = outputs_of(model, batch, pooling).items()
            differences += [(values - found[name]).abs().max().cpu() for name, values in outputs]
            sizes += [values.abs().max().cpu() for _, values in outputs]
    difference, size = (float(torch.stack(each).max()) if each else 0.0 for each in (differences, sizes))  # NaN if any
    return {
        "max_difference": difference,
        "max_output": size,
        "compared_rows": sum(shape(batch)[0] for batch in batches),
        "compared_tokens": real_tokens(batches),
    }


def _inputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    taken = inspect.signature(model.forward).parameters
    types = [name for name in ("token_type_ids",) if name in tokenizer.model_input_names and name in taken]
    return [TOKENS, TOKEN_MASK, *types]


def _check(difference: float, largest: float, target: Path) -> None:
    limit = LIMIT * max(1.0, largest)
    if not difference <= limit:
        raise NumericalError(
            f"ONNX Runtime and PyTorch differ by {difference:.1e}, more than {limit:.0e}: {target} was not written; "
            "update onnx, onnxruntime and torch, or report this"
        )


def _config(model: PreTrainedModel) -> Any:
    """Copy the model's config without what says how to load its weights from a checkpoint."""
    config = copy.deepcopy(model.config)
    for name in NOT_OF_AN_EXPORT:
        config.__dict__.pop(name, None)
    return config


def _versions() -> dict[str, str]:
    return versions() | {name: version(name) for name in PACKAGES}
