"""Save and load: ordinary safetensors, a manifest, and a copy of the loader for people without the package."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
import transformers
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.conversion_mapping import get_model_conversion_mapping

from trimformer.data.hub import lookup
from trimformer.errors import CheckpointError, InvalidOption
from trimformer.model.arguments import check_flag, check_path, told
from trimformer.model.checksums import check_config, check_model, check_tokenizer, note
from trimformer.model.fitting import check_loaded, model_class, other_shape
from trimformer.model.folders import check_place, whole_folder
from trimformer.model.modeling_trimformer import files_are_checked, sizes_of
from trimformer.model.offload import is_offloaded, like_offloaded, stored
from trimformer.model.placement import Placement, find_device
from trimformer.model.sentence_files import MODULES, choose_pooling, known_pooling, write_added
from trimformer.model.soundness import UNREADABLE, naming, read_config, read_tokenizer, trusting, trusts_code
from trimformer.model.weights import stored_as


def load_model(
    name: str,
    auto_class: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    pooling: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a model from a folder or (any other name) the hub.

    Args:
        name: a checkpoint folder, dense or pruned, or a hub name.
        auto_class: transformers' auto class; None takes the class that the checkpoint names.
        device: where to put it, such as `cpu` or `cuda`.
        dtype: precision of its weights: `float32`, `bfloat16`, `float16`, or `auto`, that of the checkpoint.
        pooling: how a sentence encoder's hidden states become one embedding, such as `mean`, `cls` or `lasttoken`;
            None takes what its sentence-transformers files say, or the mean where there are none.
        trust_remote_code: run Python files that lie in the checkpoint, where transformers has no code for it. A
            checkpoint that this package made needs none.

    Raises:
        InvalidOption: there is no such device, precision or pooling, or an argument is of another kind.
        CheckpointError: not a checkpoint, damaged, changed since it was saved, or without the weights of its task head.
    """
    check_path("name", name)
    if auto_class is not None and not isinstance(auto_class, str):
        raise InvalidOption(f"`auto_class={told(auto_class)}` must be text, such as 'AutoModel'")
    check_flag("trust_remote_code", trust_remote_code)
    with trusting(trusts=trust_remote_code or trusts_code()):
        model = place_model(str(name), auto_class, Placement(device=device, dtype=dtype))
    if pooling is not None:
        choose_pooling(model, pooling)
    return model


def place_model(name: str, auto_class: str | None, placement: Placement) -> PreTrainedModel:
    """Load a model as `load_model` does, where and in the precision that a `Placement` says; raises the same errors."""
    device = find_device(placement.device)
    model, report = load_with_report(name, auto_class, dtype=placement.torch_dtype, **placement.loading_arguments)
    check_report(name, report)
    if not placement.loading_arguments:
        model.to(device)  # type: ignore[arg-type]  # a device is one
    return model


def load_with_report(
    name: str, auto_class: str | None, *, dtype: Any = torch.float32, **settings: Any
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Load a model, and transformers' report of what its checkpoint lacks or has in other shapes.

    `settings` go to `from_pretrained`: of the config, or a device map; without a map the model is on the CPU.

    Raises:
        CheckpointError: not a checkpoint, damaged, or changed since it was saved.
    """
    check_model(name)
    _refuse_export(name)
    with silent_transformers():
        loader = model_class(name, auto_class)
        with naming(name), files_are_checked():
            loaded: Any = loader.from_pretrained(
                name,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=trusts_code(),
                **lookup(name),
                **settings,
            )
        model = loaded[0].eval()
        if "device_map" not in settings:
            check_loaded(name, model, loaded[1]["unexpected_keys"])
    return model, loaded[1]


def _refuse_export(name: str) -> None:
    def has(pattern: str) -> bool:
        return any(Path(name).glob(pattern))

    if has("*.onnx") and not has("*.safetensors") and not has("*.bin"):
        raise CheckpointError(f"{name} is an ONNX export without PyTorch's weights: give the model it was made from")


def load_config(name: str) -> Any:
    """Read the config of a checkpoint.

    Raises:
        CheckpointError: there is none, it is damaged, or changed since it was saved.
    """
    check_config(name)
    return read_config(name)


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Within the context, transformers logs errors only: what is missing is read from the load report instead."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a checkpoint.

    Raises:
        InvalidOption: no name at all.
        CheckpointError: there is none, it is damaged, or changed since it was saved.
    """
    check_path("name", name)
    check_tokenizer(name)
    if Path(name).is_dir() and not any(file for kind in _TOKENIZER_FILES for file in Path(name).glob(kind)):
        raise CheckpointError(f"{name} has no tokenizer: copy that of the model it was made from into it")
    tokenizer: PreTrainedTokenizerBase = read_tokenizer(name)
    known = getattr(read_config(name), "vocab_size", None)
    if isinstance(known, int) and (tokenizer.pad_token_id or 0) >= known:
        raise CheckpointError(
            f"{name} has a tokenizer that pads with {tokenizer.pad_token!r}, token {tokenizer.pad_token_id}, and its "
            f"model knows {known}: correct pad_token in tokenizer_config.json, or take the model's own tokenizer"
        )
    return tokenizer


COMPUTED = ".inv_freq"
"""End of the names of rotary frequencies, which some files hold in float32: the class computes them itself."""


def stored_dtype(name: str) -> torch.dtype:
    """Read the precision in which a checkpoint folder stores its weights; float32 where that cannot be told."""
    for file in sorted(Path(name).glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            weights = [key for key in stored.keys() if not key.endswith(COMPUTED)]  # noqa: SIM118  # not a dict
            kinds = {stored.get_slice(key).get_dtype() for key in weights}
        return _STORED.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32
    return torch.float32


def dtype_to_store(model: PreTrainedModel, source: str) -> torch.dtype:
    """Choose the precision to save a model in: its own, or where it is in memory in float32, that of its source."""
    own = model.dtype
    return own if own is not torch.float32 or is_offloaded(model) else stored_dtype(source)


_STORED = {"F16": torch.float16, "BF16": torch.bfloat16}


@torch.no_grad()
def round_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Round weights in place to what a precision can hold, so that storing in it changes nothing more."""
    for parameter in model.parameters():
        if parameter.dtype is not dtype:
            parameter.copy_(parameter.to(dtype))


def write(
    model: PreTrainedModel,
    out: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    manifest: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
    extra_files: Mapping[str, Path] | None = None,
) -> Path:
    """Write a checkpoint that appears whole or not at all, and reads back as it is; see `report.saving.save`.

    Args:
        model: dense or pruned.
        out: the folder to make.
        tokenizer: saved along.
        manifest: saved as `trimformer.json`, with the checksums of all files; without one, so is a pruned model.
        texts: contents of further files, by name.
        overwrite: replace an existing folder.
        dtype: store floating-point weights in this precision; None stores them as they are.
        extra_files: files to copy along, by their path below `out`.

    Raises:
        CheckpointError: the folder exists and `overwrite` is not set, it cannot be written, or it does not read back.
    """
    target = Path(out)
    with whole_folder(target, partial(check_writable, target, overwrite=overwrite)) as new:
        weights = None if dtype in (None, model.dtype) else _converted(model, dtype)
        with catch_warnings():
            simplefilter("ignore")  # that offloaded weights are loaded shard by shard
            model.save_pretrained(new, state_dict=weights, save_original_format=_as_it_came(model))
        if tokenizer is not None:
            tokenizer.save_pretrained(new)
        for name, text in (texts or {}).items():
            (new / name).write_text(text, encoding="utf-8")
        for path, source in (extra_files or {}).items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, new / path)
        pooling = known_pooling(model)
        if pooling and pooling.added and (new / MODULES).exists():
            write_added(new, pooling)
        if manifest is not None or sizes_of(model.config) is not None:
            note(new, manifest or {})
        _verify(new, model, dtype or model.dtype)
    return target


def _as_it_came(model: PreTrainedModel) -> bool:
    """Tell whether to name and shape weights as the files of this type of model do, where its class has them otherwise.

    Not where both agree: transformers before 5.6 would go back to the oldest names that it reads. Nor where weights are
    offloaded: before 5.14 it does not find those by other names.
    """
    return not is_offloaded(model) and bool(get_model_conversion_mapping(model, add_legacy=False))


def _converted(model: PreTrainedModel, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Give a model's floating-point weights in another precision, and all else as it is.

    Weights that are tied stay one tensor, which is written once.
    """
    once: dict[int, Tensor] = {}
    state = model.state_dict(keep_vars=True)
    return {
        name: once.setdefault(id(values), values.detach().to(stored_as(values, dtype)))
        for name, values in state.items()
    }


def check_writable(
    out: str | Path, *, overwrite: bool, source: str | None = None, weights: str = "*.safetensors"
) -> None:
    """Refuse an output folder that exists or cannot be made, before any work is done.

    A folder is replaced only if it holds a config and files as `weights` says, or nothing.

    Raises:
        CheckpointError: it exists and `overwrite` is not set, it is not a checkpoint folder, it is the `source` that
            is read from, or its parent cannot be written to.
    """
    target = Path(out)
    if source is not None and target.exists() and target.resolve() == Path(source).resolve():
        raise CheckpointError(f"{target} is the model that is pruned: it is never replaced; choose another `out`")
    check_place(target)
    if not target.exists():
        return
    if not overwrite:
        raise CheckpointError(f"{target} exists: choose another folder, or allow `overwrite=True`")
    is_checkpoint = (target / "config.json").exists() and any(target.glob(weights))
    if not target.is_dir() or (any(target.iterdir()) and not is_checkpoint):
        raise CheckpointError(
            f"{target} exists and is not a checkpoint folder: it is not replaced; choose another `out`"
        )


def _verify(folder: Path, model: PreTrainedModel, dtype: torch.dtype) -> None:
    try:
        loaded: Any = type(model).from_pretrained(
            folder, dtype=model.dtype, ignore_mismatched_sizes=True, **like_offloaded(model)
        )
    except (*UNREADABLE, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint does not read back, nothing was written: {error}; report this"
        ) from error
    written = loaded.state_dict()
    for name in written.keys() - model.state_dict().keys():
        raise CheckpointError(
            f"the checkpoint reads back with another weight, {name}: nothing was written; report this"
        )
    for name, values in stored(model, model.state_dict().items()):
        _, found = next(stored(loaded, [(name, written[name])])) if name in written else (name, None)
        # a buffer that the class computes itself, as ESM's frequencies, is not rounded to the weights' precision
        allowed = (values.cpu().to(dtype), values.cpu())
        if found is None or not any(torch.equal(found.cpu(), each.to(found.dtype)) for each in allowed):
            raise CheckpointError(f"the checkpoint reads back with another {name}: nothing was written; report this")


def check_report(name: str, report: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks weights, or has some of another shape.

    Raises:
        CheckpointError: names the first of them.
    """
    for parameter, found, expected in sorted(report["mismatched_keys"]):
        raise other_shape(name, parameter, found, expected)
    absent = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if absent:
        raise CheckpointError(
            f"{name} has no weights for {absent[0]}{f' and {len(absent) - 1} more' if len(absent) > 1 else ''}: "
            f"fine-tune it for this task first, or choose the task that it was trained for"
        )


_TOKENIZER_FILES = ("tokenizer.json", "vocab*", "*.model")
"""Patterns of tokenizer files: without any of them transformers makes a tokenizer that knows no words."""
