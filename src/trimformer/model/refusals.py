"""Refuse what no description of an architecture helps: other objects than models, and models in another use."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from os import PathLike
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from trimformer.errors import UnsupportedModel
from trimformer.model.arguments import told
from trimformer.model.description import Architecture
from trimformer.model.modeling_trimformer import sizes_of


def check_kind(given: Any) -> None:
    """Refuse what is no transformers model.

    Raises:
        UnsupportedModel: says what to give in its place.
    """
    if not isinstance(given, PreTrainedModel):
        raise UnsupportedModel(_no_model(given))


def _no_model(given: Any) -> str:
    """Say of something that is no transformers model what to give in its place."""
    kind = type(given).__name__
    if isinstance(given, (str, PathLike)):
        return f"{str(given)!r} is no transformers model: load it first, with from_pretrained or trimformer.load_model"
    if isinstance(getattr(given, "model", None), PreTrainedModel):
        return f"{kind} is no transformers model, but has one: give its .model"
    if not isinstance(given, nn.Module):
        return f"{told(given)} is no transformers model: load it first, with from_pretrained or load_model"
    if callable(getattr(given, "merge_and_unload", None)):
        return f"{kind} is a model with adapters: give what its merge_and_unload() returns"
    inside = [name for name, each in given.named_modules() if name and isinstance(each, PreTrainedModel)]
    remedy = f": give the one in it, model{_path(inside[0])}" if inside else ", and there is none in it"
    return f"{kind} is no transformers model (PreTrainedModel){remedy}"


def _path(name: str) -> str:
    """Write the path of a module as Python reads it: `0.auto_model` is `[0].auto_model`."""
    return "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in name.split("."))


def not_described(config: Any, known: Sequence[str]) -> str:
    """Say of a model that no architecture describes what is different about it, as far as its config tells."""
    fields = config.to_dict()
    reasons = {
        "it has an encoder and a decoder": fields.get("is_encoder_decoder"),
        "its layers are mixtures of experts": any("expert" in name and value for name, value in fields.items()),
        "it reads images or sound": fields.keys() & {"vision_config", "audio_config", "image_size", "num_mel_bins"},
    }
    why = "".join(f"{reason}, and " for reason, holds in reasons.items() if holds)
    near = get_close_matches(config.model_type, known, n=1, cutoff=0.75)
    like = f"; did you mean {near[0]}?" if near else ""
    return (
        f"models of type {config.model_type!r} cannot be pruned: {why}no architecture describes them{like}; "
        f"`trimformer list` shows the {len(known)} types that can"
    )


def check_use(model: PreTrainedModel, architecture: Architecture) -> None:
    """Refuse a model that is used otherwise than its architecture describes.

    Raises:
        UnsupportedModel: says what the use is, and what to do.
    """
    config: Any = model.config
    if getattr(config, "is_decoder", False) and not architecture.causal:
        raise UnsupportedModel(
            f"{config.model_type} is used as a decoder (is_decoder=True): only encoders of it can be pruned"
        )
    if getattr(config, "add_cross_attention", False):
        raise UnsupportedModel("the model has cross-attention: only encoders, and decoders without it, can be pruned")
    if getattr(config, "chunk_size_feed_forward", 0):
        raise UnsupportedModel("chunk_size_feed_forward is set: load the model with chunk_size_feed_forward=0")
    sizes = sizes_of(config)
    if sizes is not None and sizes.gates:
        raise UnsupportedModel(
            "the model decides row by row what to compute (ebert): give the one that it was made from"
        )
    if any(type(each).__module__.startswith("peft.") for each in model.modules()):
        raise UnsupportedModel("the model has adapters in it: give what PeftModel.merge_and_unload() returns")
    if any(each.is_inference() for each in model.parameters()):
        raise UnsupportedModel(
            "the model was made within torch.inference_mode(), so that its weights cannot be changed: load it outside"
        )
    if any(each.is_meta for each in model.parameters()) and not hasattr(model, "hf_device_map"):
        raise UnsupportedModel("the model is on the device meta, without weights: load it, with from_pretrained")
    if not _is_plain(model):
        raise UnsupportedModel(
            f"the model is quantized{_by_method(config)}: load or make it in float, prune it, then quantize the result"
        )


def _by_method(config: Any) -> str:
    """Name the method that a config says a model was quantized with: ` with …`; empty where it says none."""
    quantization = getattr(config, "quantization_config", None)
    about = quantization if isinstance(quantization, dict) else vars(quantization or object)
    method = about.get("quant_method")
    return f" with {getattr(method, 'value', method)}" if method else ""


QUANTIZERS = ("torchao", "optimum", "bitsandbytes", "hqq", "gptqmodel", "awq", "eetq", "vptq", "aqlm", "torch.ao")
"""Packages whose classes of weights and modules are quantized, whatever type of number they say that they hold."""


def _is_plain(model: nn.Module) -> bool:
    """Tell whether all weights are ordinary floating-point tensors; those of a dequantized file, such as GGUF, are."""
    homes = {type(each).__module__ for each in (*model.parameters(), *model.modules())}
    quantized = any(home.startswith(f"{package}.") for home in homes for package in QUANTIZERS)
    return not quantized and all(each.is_floating_point() for each in model.parameters())
