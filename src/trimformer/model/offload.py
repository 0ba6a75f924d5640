"""Models whose weights accelerate keeps elsewhere, in CPU memory or on disk, until a module runs.

Between runs such weights are on the `meta` device: sizes without numbers. `in_memory` brings those of a module in, so
that they can be read and changed; changed ones go to where the model's other weights are kept, and not to the
checkpoint that it was loaded from.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate.utils import has_offloaded_params, set_module_tensor_to_device
from accelerate.utils.offload import OffloadedWeightsLoader
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.errors import NumericalError, UnsupportedModel
from trimformer.model.claims import scratch_folder

HOOK, VERSION = "_hf_hook", "_version"
"""Attributes: accelerate's hook of a module, and PyTorch's number of times that a tensor was written to."""
SCRATCH = "_trimformer_scratch"
"""Attribute of a model: the folder of its changed weights, which vanishes with the last model that needs it."""


def is_offloaded(model: nn.Module) -> bool:
    """Tell whether some weights of a model are not in memory."""
    return any(parameter.is_meta for parameter in model.parameters())


def like_offloaded(model: nn.Module) -> dict[str, Any]:
    """Give the arguments for `from_pretrained` that load a copy with as little in memory, and nothing on a GPU."""
    if not is_offloaded(model):
        return {}
    placed: Any = model.hf_device_map
    return {"device_map": {part: place if place == "disk" else "cpu" for part, place in placed.items()}}


def device_of(model: PreTrainedModel) -> torch.device:
    """Find the device that a model computes on, wherever its weights are.

    Raises:
        UnsupportedModel: it computes on several devices.
    """
    places = {
        torch.device(f"cuda:{place}" if isinstance(place, int) else place)
        for module in model.modules()
        if (place := getattr(_hook(module), "execution_device", None)) is not None
    }
    if len(places) > 1:
        raise UnsupportedModel(
            f"the model computes on {', '.join(sorted(map(str, places)))}: load it with a device map of one of them, "
            "`cpu` and `disk`"
        )
    return places.pop() if places else model.device


def stored_weight(module: nn.Module, name: str) -> Tensor:
    """Read a module's own weight of that name, wherever it is; a copy where it is not in memory."""
    weight: Tensor = getattr(module, name)
    if not weight.is_meta:
        return weight.detach()
    hook = _hook(module)
    return hook.weights_map[name].to(hook.execution_device)  # type: ignore[no-any-return]


def stored(model: nn.Module, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield some of a model's weights by path, one by one, each read in where it is not in memory."""
    for path, values in named:
        owner, _, name = path.rpartition(".")
        yield path, stored_weight(model.get_submodule(owner), name) if values.is_meta else values


@contextmanager
def in_memory(model: nn.Module, part: nn.Module) -> Iterator[None]:
    """Within the context, the weights of a part of a model are in memory, and what is changed in them is kept."""
    modules = [module for module in part.modules() if has_offloaded_params(module)]
    before: dict[int, dict[str, tuple[int, int]]] = {}
    try:
        for module in modules:
            _hook(module).pre_forward(module)
            _hook(module).offload = False
            before[id(module)] = _state(module)
        yield
    finally:
        for module in modules:
            if id(module) in before and _state(module) != before[id(module)]:
                _hook(module).weights_map = _kept(model, module)
            _hook(module).offload = True
            for name, _ in module.named_parameters(recurse=False):
                set_module_tensor_to_device(module, name, "meta")


def _hook(module: nn.Module) -> Any:
    """Give the hook that accelerate put on a module; None where it put none."""
    return getattr(module, HOOK, None)


def _state(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Note address and count of writes of a module's own weights, which tell later whether one was changed."""
    return {name: (value.data_ptr(), getattr(value, VERSION)) for name, value in module.named_parameters(recurse=False)}


def _kept(model: nn.Module, module: nn.Module) -> Any:
    """Keep a module's own weights as they are now, in CPU memory if they were there, else in a new file.

    Returns:
        The map by name that accelerate reads them from.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in module.named_parameters(recurse=False)}
    hook = _hook(module)
    earlier = _files(hook.weights_map)
    if not earlier:
        return weights
    if not hasattr(model, SCRATCH):
        setattr(model, SCRATCH, _Scratch())
    folder = getattr(model, SCRATCH).folder
    file = folder / f"{uuid4().hex}.safetensors"  # a new one: the earlier may still be mapped into memory
    save_file(weights, file)
    for other in earlier:
        if other.parent == folder:
            other.unlink()
    about = {name: {"safetensors_file": str(file), "weight_name": name} for name in weights}
    return OffloadedWeightsLoader(index=about)


def _files(weights_map: Any) -> set[Path]:
    """List the files that a module's weights are in; none where they are in CPU memory."""
    prefix, loader = getattr(weights_map, "prefix", ""), getattr(weights_map, "dataset", weights_map)
    if not isinstance(loader, OffloadedWeightsLoader):
        return set()
    return {
        Path(about.get("safetensors_file", f"{loader.save_folder}/{path}.dat"))
        for path, about in loader.index.items()
        if path.startswith(prefix) and path not in loader.state_dict
    }


class _Scratch:
    """A folder for changed weights. A copy of a model has one of its own, and keeps that of the original alive."""

    def __init__(self, origin: _Scratch | None = None) -> None:
        self.origin = origin
        held = ExitStack()
        self.folder = held.enter_context(scratch_folder())
        weakref.finalize(self, held.close)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Scratch:
        return _Scratch(self)


def check_finite_weights(model: PreTrainedModel, where: Callable[[str], str] = str) -> None:
    """Refuse a model with weights that are NaN or infinite, wherever they are.

    Args:
        model: in memory or not.
        where: words the place of a parameter, given its name.

    Raises:
        NumericalError: names the first.
    """
    for name, parameter in stored(model, model.named_parameters()):
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise NumericalError(f"NaN or infinite weights at {where(name)}: repair or re-download the checkpoint")
