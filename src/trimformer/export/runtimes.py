"""Models as they are run: PyTorch as it is, compiled, or ONNX Runtime; each is called as `model(**batch)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimformer.data.rows import TOKEN_MASK, TOKENS, Batch
from trimformer.errors import InvalidOption, UnsupportedModel, first_line, unknown_name
from trimformer.export.folder import FACTS
from trimformer.export.onnx.graph import to_onnx
from trimformer.export.onnx.int8 import quantize
from trimformer.export.onnx.model import FLOAT, INT8, OnnxModel, require_onnx
from trimformer.model.checkpoint import load_config, load_model
from trimformer.model.placement import find_device
from trimformer.model.soundness import damaged, read_json
from trimformer.model.trimformer_checks import digest_of_file
from trimformer.observing.latency import measure

RUNTIMES = {"eager": None, "compile": None, "onnx": FLOAT, "int8": INT8}
"""Names of what can run a model, each with the file of an exported folder that it reads; None for PyTorch."""
MOST_COMPILED = 8
"""Most models of one class for which PyTorch keeps compiled code side by side."""


def runtimes_of(text: str) -> list[str]:
    """Read runtimes from names with commas, each once.

    Raises:
        InvalidOption: a name that is none, or a missing package.

    >>> runtimes_of("eager,compile")
    ['eager', 'compile']
    """
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in RUNTIMES:
            raise unknown_name("runtime", name, RUNTIMES)
    if any(RUNTIMES[name] for name in names):
        require_onnx()
    return names


def runtimes_for(name: str, asked: Sequence[str]) -> list[str]:
    """Choose the runtimes of those asked for that a model can run in: a checkpoint in all, an export in its files'.

    Raises:
        InvalidOption: an export that has none of them.
    """
    folder = Path(name)
    if not (folder / FLOAT).is_file():
        return list(asked)
    there = [runtime for runtime, file in RUNTIMES.items() if file and (folder / file).is_file()]
    found = [runtime for runtime in asked if runtime in there]
    if not found:
        runtimes = ",".join(there)
        raise InvalidOption(
            f"{folder} is an ONNX export, not for {', '.join(asked)}: give `runtimes={runtimes}`; with "
            f"`runtimes=eager,{runtimes}` checkpoints are timed in PyTorch beside it"
        )
    return found


def runners(name: str, runtimes: Sequence[str], device: str, scratch: Path) -> dict[str, nn.Module]:
    """Load a checkpoint or an exported folder in some runtimes; models by runtime.

    Args:
        name: a checkpoint folder, a hub name, or what `export` wrote.
        runtimes: names in `RUNTIMES`; of an exported folder those that it has files for are loaded.
        device: where to run it.
        scratch: an empty folder where a checkpoint is exported to.

    Raises:
        InvalidOption: an export for none of the runtimes, or no such device.
        CheckpointError: a file is damaged.
    """
    place = find_device(device)
    folder = Path(name)
    if (folder / FLOAT).is_file():
        files = {runtime: _file(folder, str(RUNTIMES[runtime])) for runtime in runtimes_for(name, runtimes)}
        return {runtime: OnnxModel(file, load_config(name), place) for runtime, file in files.items()}
    model: Any = load_model(name, device=device)
    found: dict[str, Any] = {"eager": model}
    if "compile" in runtimes:
        found["compile"] = torch.compile(model, dynamic=False)
    if any(RUNTIMES[runtime] for runtime in runtimes):
        to_onnx(model, scratch / FLOAT, (TOKENS, TOKEN_MASK))
        found["onnx"] = OnnxModel(scratch / FLOAT, model.config, place)
    if "int8" in runtimes:
        quantize(scratch / FLOAT, scratch / INT8)
        found["int8"] = OnnxModel(scratch / INT8, model.config, place)
    return {runtime: found[runtime] for runtime in runtimes}


def compile_for(model: nn.Module, batch: Batch, name: str) -> None:
    """Run a compiled model once, so that what is compiled for this shape is there.

    Raises:
        UnsupportedModel: PyTorch cannot compile it.
    """
    try:
        measure({name: model}, batch, runs=1, warmup=0)
    except RuntimeError as error:
        raise UnsupportedModel(
            f"torch.compile failed on {name}: {first_line(error)}; on the CPU it needs a C++ compiler; "
            "leave out compile otherwise"
        ) from error


def _file(folder: Path, file: str) -> Path:
    _check_digest(folder, file)
    return folder / file


def _check_digest(folder: Path, name: str) -> None:
    """Refuse a file of an export that is not as it was written; an earlier version wrote no digests."""
    known = read_json(folder / FACTS) if (folder / FACTS).is_file() else {}
    files = known.get("files") if isinstance(known, dict) else None
    about = files.get(name) if isinstance(files, dict) else None
    digest = about.get("sha256") if isinstance(about, dict) else None
    if digest is not None and digest != digest_of_file(folder / name):
        raise damaged(folder, f"{name} is not as it was written: its SHA-256 is not the one in {FACTS}")
