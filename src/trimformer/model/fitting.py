"""The model that a checkpoint's config describes: whether its weights are of it, before memory is taken for them.

Transformers reads a config that says other sizes than the weights have, and begins such weights anew. Here that is told
from the headers of the files; and a model that is loaded runs once, on a few tokens, so that no size is left unseen.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import PreTrainedModel

from trimformer import plugins
from trimformer.data.rows import CHOOSING
from trimformer.errors import CheckpointError, InvalidOption
from trimformer.model.modeling_trimformer import reshape, sizes_of
from trimformer.model.soundness import ANYTHING, damaged, in_short, naming, read_config, read_json, trusts_code
from trimformer.model.trimformer_checks import refuse_unplaced

INDEX = "model.safetensors.index.json"
TIMES, NUMBERS = 4, 2**28
"""Most numbers of a model: so many times those that are stored, and so many more, for a new head or tables."""
ROWS, TOKENS = 3, 7
"""Of the batch that a loaded model is tried on: numbers that sizes of modules seldom have."""


def model_class(name: str, auto_class: str | None) -> Any:
    """Find the class to load a checkpoint with, after a look at its files and at the model that its config describes.

    Args:
        name: a checkpoint folder or a hub name.
        auto_class: transformers' auto class; None takes the class that the checkpoint names.

    Raises:
        CheckpointError: files that cannot be read, a config that describes no model, or not that of the weights.
        InvalidOption: transformers does not have the class that the checkpoint names.
    """
    config = read_config(name)
    named = auto_class or (config.architectures or ["none"])[0]
    found: Any = getattr(transformers, named, None)
    if not hasattr(found, "from_pretrained"):
        raise InvalidOption(f"{name} names the model class {named!r}, which transformers does not have")
    stored = _read_headers(Path(name)) if Path(name).is_dir() else {}
    blocks = getattr(config, "num_hidden_layers", None)
    if stored and isinstance(blocks, int) and blocks > len(stored):
        raise damaged(name, f"config.json says {blocks} blocks, but there are {len(stored)} weights in all")
    model = _without_weights(name, found, config)
    is_quantized = getattr(config, "quantization_config", None) is not None and sizes_of(config) is None
    if stored and not is_quantized:
        _check_shapes(name, model, stored)
    return found


def _read_headers(folder: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of all weights of a folder by name, as the headers of its safetensors files have them."""
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX)
        parts = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise damaged(folder, f"{INDEX} has no weight_map of file names")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with naming(str(folder)), safe_open(file, framework="pt") as stored:
            shapes |= {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
    return shapes


def _without_weights(name: str, found: Any, config: Any) -> PreTrainedModel:
    """Build the model that a config describes, without memory for its weights."""
    dense = copy.deepcopy(config)
    vars(dense).pop("quantization_config", None)
    with naming(name, ANYTHING, "config.json describes no model"), torch.device("meta"):
        if issubclass(found, PreTrainedModel):
            model: PreTrainedModel = found(dense)
        else:
            model = found.from_config(dense, trust_remote_code=trusts_code())
    with naming(name):
        sizes = sizes_of(config)
        if sizes is not None:
            reshape(model, sizes)
    return model


def _check_shapes(name: str, model: PreTrainedModel, stored: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights below the task head that have other shapes than the config says, and a model of another order.

    A head may be another: it is begun anew where it is trained.
    """
    prefix, numbers = f"{model.base_model_prefix}.", 0
    for parameter, values in (*model.named_parameters(), *model.named_buffers()):
        bare = parameter.removeprefix(prefix)
        shape = next((stored[key] for key in (parameter, bare, prefix + bare) if key in stored), None)
        numbers += values.numel()
        is_below = model.base_model is model or parameter.startswith(prefix)
        if shape is not None and is_below and shape != tuple(values.shape):
            raise other_shape(name, parameter, shape, values.shape)
    if numbers > TIMES * sum(torch.Size(shape).numel() for shape in stored.values()) + NUMBERS:
        raise damaged(name, f"config.json describes a model of {numbers:.1e} numbers, far more than its weights have")


def other_shape(name: str, parameter: str, found: Any, expected: Any) -> CheckpointError:
    """Make the error for a weight that has another shape than the config says."""
    return CheckpointError(
        f"{name} is damaged: its weights {parameter} have the shape {tuple(found)}, but its config.json says "
        f"{tuple(expected)}; save it again, or load it with the number of labels that it was trained with"
    )


def check_loaded(name: str, model: PreTrainedModel, unexpected: Any) -> None:
    """Refuse a model that has no place for weights of its checkpoint, or whose modules do not fit together.

    Args:
        name: of the checkpoint.
        model: as loaded, on the CPU.
        unexpected: names of the weights that were not loaded; those of another head are all right.

    Raises:
        CheckpointError: names the weight, or says what came of running it.
    """
    with naming(name, (ValueError,)):
        refuse_unplaced(model, sorted(unexpected))
    if model.config.model_type not in plugins.names("architectures") or model.dtype is torch.float16:
        return
    padding = getattr(model.config, "pad_token_id", None)
    ids = torch.full((ROWS, TOKENS), next(number for number in range(1, TOKENS) if number != padding))
    mask = torch.ones_like(ids).tril(TOKENS - ROWS)
    is_pruned = sizes_of(model.config) is not None
    errors = ANYTHING if is_pruned else (RuntimeError,)  # a dense model may want more than tokens
    takes_rows = is_pruned and not type(model).__name__.endswith(CHOOSING)
    try:
        with torch.no_grad():
            (model if takes_rows else model.base_model)(input_ids=ids, attention_mask=mask)
    except errors as error:
        innermost = list(traceback.walk_tb(error.__traceback__))[-1][0]
        if innermost.f_globals.get("__name__", "").startswith("trimformer."):
            raise
        raise damaged(name, f"its modules do not fit together, {in_short(error)}") from error
