"""Load models whose layers differ in size, through transformers' own quantizer registry.

`config.json` of a pruned checkpoint has a `quantization_config` with `quant_method: "trimformer"`: the sizes of the
projections that differ from the class, the attention modules that are empty, and the kept units. Importing this
module registers it, and every `AutoModelFor….from_pretrained` then gives the modules their sizes before the weights
are read.

This file needs torch and transformers only. A copy of it goes into every checkpoint, for people without the package:
`from_pretrained(…, trust_remote_code=True)`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import torch
import transformers
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.utils.quantization_config import QuantizationConfigMixin

NAME = "trimformer"
REMOTE_MODULE = "modeling_trimformer"
AUTO_CLASSES = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForPreTraining": "AutoModelForPreTraining",
    "": "AutoModel",
}
"""Auto classes, by the end of a model class's name."""
PLACEHOLDER_HEADS = 1
"""Heads in the key and value cache of an attention without heads."""
Projection: TypeAlias = nn.Linear | Conv1D
"""A linear layer; Conv1D is GPT-2's, whose weight is `(in_features, out_features)`."""


class TrimformerConfig(QuantizationConfigMixin):
    """The sizes that a pruned checkpoint gives its modules; paths are relative to the base model.

    Args:
        linears: `[in_features, out_features]` of every projection that was cut.
        biases: projections that have a bias though the class gives them none.
        attributes: other sizes that modules cache, by dotted path, such as a number of heads.
        empty: attention modules without any head; with the path of the output projection that they own, or None.
        kept: kept units of every pruned site, as indices into the original model's units.
        units: number of units of those sites in the original model.

    Raises:
        ValueError: an entry of another type than this; names the field.
    """

    def __init__(
        self,
        linears: dict[str, list[int]] | None = None,
        biases: list[str] | None = None,
        attributes: dict[str, int] | None = None,
        empty: dict[str, str | None] | None = None,
        kept: dict[str, list[int]] | None = None,
        units: dict[str, int] | None = None,
        **_: Any,
    ) -> None:
        self.quant_method: Any = NAME
        self.linears: dict[str, list[int]] = _field("linears", linears, {}, _is_shape)
        self.biases: list[str] = _field("biases", biases, [], _is_text)
        self.attributes: dict[str, int] = _field("attributes", attributes, {}, _is_size)
        self.empty: dict[str, str | None] = _field("empty", empty, {}, lambda path: path is None or _is_text(path))
        self.kept: dict[str, list[int]] = _field("kept", kept, {}, _are_sizes)
        self.units: dict[str, int] = _field("units", units, {}, _is_size)


def _field(name: str, given: Any, empty: Any, fits: Callable[[Any], bool]) -> Any:
    """Check a field that was read from JSON: of the type of `empty`, with entries that fit; None is empty."""
    found = empty if given is None else given
    entries = found.values() if isinstance(found, dict) else found
    if not isinstance(found, type(empty)) or not all(fits(entry) for entry in entries):
        raise ValueError(f"quantization_config.{name} of config.json has an entry of a wrong type: {found!r:.200}")
    return found


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_size, value))


def _is_shape(value: Any) -> bool:
    return _are_sizes(value) and len(value) == len(("in_features", "out_features"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


class NoHeads(nn.Module):
    """Attention without heads: hands an input of width zero to the output projection, which adds its bias."""

    def __init__(self, replaced: nn.Module, output_name: str | None = None) -> None:
        super().__init__()
        self.layer_idx: int | None = getattr(replaced, "layer_idx", None)
        self.output_name = output_name
        if output_name is not None:
            self.add_module(output_name, replaced.get_submodule(output_name))

    def forward(
        self,
        hidden_states: Tensor,
        *_: Any,
        past_key_values: Cache | None = None,
        layer_past: Cache | None = None,
        **__: Any,
    ) -> tuple[Tensor, None]:
        """Turn `(batch, tokens, width)` into `(batch, tokens, 0)`, projected where the module owns the projection."""
        cache = past_key_values if layer_past is None else layer_past
        if cache is not None and self.layer_idx is not None:
            _count_tokens(cache, self.layer_idx, hidden_states)
        nothing = hidden_states[..., :0]
        if self.output_name is None:
            return nothing, None
        projected: Tensor = self.get_submodule(self.output_name)(nothing)
        return projected, None


def _count_tokens(cache: Cache, layer_idx: int, hidden_states: Tensor) -> None:
    """Put one zero a token into a cache: by one of its layers, often the first, it tells how many tokens it holds."""
    zeros = hidden_states.new_zeros(len(hidden_states), PLACEHOLDER_HEADS, hidden_states.shape[1], 1)
    cache.update(zeros, zeros, layer_idx)


class AnyWidthConv1D(Conv1D):
    """Conv1D that may have no inputs: transformers' own cannot reshape what has no elements."""

    def forward(self, x: Tensor) -> Tensor:
        """Project `(…, in_features)` to `(…, out_features)`."""
        rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
        return torch.addmm(self.bias, rows, self.weight).reshape(*x.shape[:-1], self.weight.shape[1])


def reshape(model: PreTrainedModel, config: TrimformerConfig) -> None:
    """Give the modules of a freshly built model the sizes of the checkpoint; weights are empty, to be loaded.

    Raises:
        ValueError: the config names modules or sizes that a model of this class does not have.
    """
    base = model.base_model
    for path, (in_features, out_features) in config.linears.items():
        resize(_projection(base, path), in_features, out_features)
    for path in config.biases:
        add_bias(_projection(base, path))
    for path, output_name in config.empty.items():
        _check_attention(_module(base, path), path, output_name)
        empty_attention(base, path, output_name)
    for path, value in config.attributes.items():
        owner, _, name = path.rpartition(".")
        module = _module(base, owner)
        if not _is_size(getattr(module, name, None)):
            raise ValueError(f"the checkpoint sets {path}, which is no size that {type(module).__name__} has")
        setattr(module, name, value)


def _module(base: nn.Module, path: str) -> nn.Module:
    try:
        return base.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"the checkpoint names {path}, which {type(base).__name__} does not have") from error


def _projection(base: nn.Module, path: str) -> Projection:
    found = _module(base, path)
    if not isinstance(found, Projection):
        raise ValueError(f"{path} is a {type(found).__name__}, the checkpoint expects a projection")
    return found


def _check_attention(module: nn.Module, path: str, output_name: str | None) -> None:
    inside = dict(module.named_children())
    owned = output_name is None or isinstance(inside.get(output_name), Projection)
    if not owned or not any(isinstance(child, Projection) for child in inside.values()):
        raise ValueError(f"the checkpoint says that {path} has no heads, which is a {type(module).__name__}")


def resize(projection: Projection, in_features: int, out_features: int) -> None:
    """Give a projection other sizes; its weights are uninitialised afterwards."""
    transposed = isinstance(projection, Conv1D)
    shape = (in_features, out_features) if transposed else (out_features, in_features)
    projection.weight = nn.Parameter(projection.weight.new_empty(shape))
    if projection.bias is not None:
        projection.bias = nn.Parameter(projection.bias.new_empty(out_features))
    note_sizes(projection)


def note_sizes(projection: Projection) -> None:
    """Make the sizes that a projection names those of its weight."""
    if isinstance(projection, Conv1D):
        projection.nx, projection.nf = projection.weight.shape
        projection.__class__ = AnyWidthConv1D
    else:
        projection.out_features, projection.in_features = projection.weight.shape


def add_bias(projection: nn.Module) -> None:
    """Give a projection without bias one of zeros."""
    weight: Any = projection.weight
    projection.bias = nn.Parameter(weight.new_zeros(weight.shape[0]))


def empty_attention(base: nn.Module, path: str, output_name: str | None) -> None:
    """Replace an attention module by one without heads; it keeps the output projection if it owns one."""
    base.set_submodule(path, NoHeads(base.get_submodule(path), output_name))


class TrimformerQuantizer(HfQuantizer):
    """Transformers' hook between building a model and reading its weights. Nothing is quantized."""

    requires_calibration = False
    quantization_config: TrimformerConfig

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        reshape(model, self.quantization_config)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        """Check the weights' shapes, and remove the marks of a quantized model, which transformers refuses to train.

        Raises:
            ValueError: weights of another shape than config.json says, which not every version of transformers checks.
        """
        for path, module in model.named_modules():
            expected = _shape(module)
            if expected and module.weight.shape != expected:
                raise ValueError(f"weights of {path} have the shape {tuple(module.weight.shape)}, not {expected}")
        for module in model.modules():
            for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
                module.__dict__.pop(mark, None)
        model.config.__dict__.pop("_is_quantized", None)
        carry_this_file(model)
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Return True: pruned models are saved like any other."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Always True: pruned models are trained like any other."""
        return True


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """Give the shape that a projection's weight should have by the sizes it names; None for other modules."""
    if isinstance(module, Conv1D):
        return (module.nx, module.nf)
    return (module.out_features, module.in_features) if isinstance(module, nn.Linear) else None


if NAME not in AUTO_QUANTIZER_MAPPING:
    register_quantization_config(NAME)(TrimformerConfig)
    register_quantizer(NAME)(TrimformerQuantizer)


def carry_this_file(model: PreTrainedModel) -> None:
    """Make a model of a transformers class copy this file into every folder that `save_pretrained` writes.

    Transformers does that for models of custom classes; so the model's class becomes one, in name only.
    """
    original, base = type(model), type(model.base_model)
    if getattr(transformers, original.__name__, None) is not original:
        return
    model.__class__ = __getattr__(original.__name__)
    loaders = {auto_class(kind.__name__): f"{REMOTE_MODULE}.{kind.__name__}" for kind in (base, original)}
    model.config.auto_map = (getattr(model.config, "auto_map", None) or {}) | loaders


def auto_class(name: str) -> str:
    """Give the name of the auto class that loads the model class named."""
    return next(auto for end, auto in AUTO_CLASSES.items() if name.endswith(end))


def _checking_the_cache(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Make the preparation of a step of generation refuse a cache with other numbers of heads than the model."""

    @wraps(prepare)
    def checked(self: PreTrainedModel, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        described: Any = getattr(self.config, "quantization_config", None) or TrimformerConfig()
        kept = described["kept"] if isinstance(described, dict) else described.kept
        for site, units in kept.items() if past_key_values is not None else ():
            layer, kind = site.split(".")[-2:]
            if kind == "attention" and int(layer) < len(past_key_values.layers):
                _check_layer(past_key_values.layers[int(layer)], layer, len(units))
        return prepare(self, *args, past_key_values=past_key_values, **kwargs)

    return checked


def _check_layer(cached: Any, layer: str, heads: int) -> None:
    if not cached.is_initialized or cached.keys.shape[1] == (heads or PLACEHOLDER_HEADS):
        return
    raise ValueError(
        f"the cache was made for {cached.keys.shape[1]} key and value heads in layer {layer}, which has {heads}: "
        "layers of a pruned model differ, so use a DynamicCache, or a StaticCache without early_initialization"
    )


def __getattr__(name: str) -> type[PreTrainedModel]:
    """Make the transformers class of that name a class of this module, so that saving copies this file along.

    Raises:
        AttributeError: transformers has no model class of that name.
    """
    original = getattr(transformers, name, None)
    if not (isinstance(original, type) and issubclass(original, PreTrainedModel)):
        raise AttributeError(f"module {__name__} has no attribute {name}")
    marks: dict[str, Any] = {"__module__": __name__, "__doc__": original.__doc__, "_auto_class": auto_class(name)}
    if hasattr(original, "prepare_inputs_for_generation"):
        marks["prepare_inputs_for_generation"] = _checking_the_cache(original.prepare_inputs_for_generation)
    return globals().setdefault(name, type(name, (original,), marks))  # type: ignore[no-any-return]
