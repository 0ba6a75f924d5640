"""Loads models whose layers differ in size, through transformers' own quantizer registry.

`config.json` of a pruned checkpoint has a `quantization_config` with `quant_method: "trimformer"`: the sizes of the
projections that differ from the class, the attention modules that are empty, and the kept units. Importing this
module registers it, and every `AutoModelFor….from_pretrained` then gives the modules their sizes before the weights
are read.

This file needs torch and transformers only. A copy of it goes into every checkpoint, for people without the package:
`from_pretrained(…, trust_remote_code=True)`.
"""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.utils.quantization_config import QuantizationConfigMixin

NAME = "trimformer"
REMOTE_MODULE = "modeling_trimformer"
AUTO_CLASSES = (
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMaskedLM",
    "AutoModelForPreTraining",
    "AutoModel",
)
"""Each loads the model classes that end as it does."""


class TrimformerConfig(QuantizationConfigMixin):
    """What a pruned checkpoint says about its modules; paths are relative to the base model.

    Args:
        linears: `[in_features, out_features]` of every projection that was cut.
        attributes: other sizes that modules cache, by dotted path, such as a number of heads.
        empty: attention modules without any head; with the path of the output projection that they own, or None.
        kept: kept units of every pruned site, as indices into the original model's units.
        units: number of units of those sites in the original model.
    """

    def __init__(
        self,
        linears: dict[str, list[int]] | None = None,
        attributes: dict[str, int] | None = None,
        empty: dict[str, str | None] | None = None,
        kept: dict[str, list[int]] | None = None,
        units: dict[str, int] | None = None,
        **_: Any,
    ) -> None:
        self.quant_method: Any = NAME
        self.linears = linears or {}
        self.attributes = attributes or {}
        self.empty = empty or {}
        self.kept = kept or {}
        self.units = units or {}


class NoHeads(nn.Module):
    """Attention without heads: hands an input of width zero to the output projection, which adds its bias."""

    def __init__(self, output_name: str | None = None, output: nn.Module | None = None) -> None:
        super().__init__()
        self.output_name = output_name
        if output_name is not None:
            self.add_module(output_name, output)

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """`(batch, tokens, width)` -> `(batch, tokens, 0)`, projected where the module owns the projection."""
        nothing = hidden_states[..., :0]
        if self.output_name is None:
            return nothing, None
        projected: Tensor = self.get_submodule(self.output_name)(nothing)
        return projected, None


def reshape(model: PreTrainedModel, config: TrimformerConfig) -> None:
    """Give the modules of a freshly built model the sizes of the checkpoint; weights are empty, to be loaded."""
    base = model.base_model
    for path, (in_features, out_features) in config.linears.items():
        linear = base.get_submodule(path)
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"{path} is a {type(linear).__name__}, the checkpoint expects a Linear")
        resize(linear, in_features, out_features)
    for path, output_name in config.empty.items():
        empty_attention(base, path, output_name)
    for path, value in config.attributes.items():
        owner, _, name = path.rpartition(".")
        setattr(base.get_submodule(owner), name, value)


def resize(linear: nn.Linear, in_features: int, out_features: int) -> None:
    """Give a projection other sizes; its weights are uninitialised afterwards."""
    linear.in_features, linear.out_features = in_features, out_features
    linear.weight = nn.Parameter(linear.weight.new_empty(out_features, in_features))
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.new_empty(out_features))


def empty_attention(base: nn.Module, path: str, output_name: str | None) -> None:
    """Replace an attention module by one without heads; it keeps the output projection if it owns one."""
    output = None if output_name is None else base.get_submodule(f"{path}.{output_name}")
    base.set_submodule(path, NoHeads(output_name, output))


class TrimformerQuantizer(HfQuantizer):
    """Transformers' hook between building a model and reading its weights. Nothing is quantized."""

    requires_calibration = False
    quantization_config: TrimformerConfig

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        reshape(model, self.quantization_config)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        """From here on the model is one like any other: transformers refuses to train a quantized one.

        Raises:
            ValueError: weights of another shape than config.json says, which not every version of transformers checks.
        """
        for path, module in model.named_modules():
            expected = (module.out_features, module.in_features) if isinstance(module, nn.Linear) else None
            if expected and module.weight.shape != expected:
                raise ValueError(f"weights of {path} have the shape {tuple(module.weight.shape)}, not {expected}")
        for module in model.modules():
            for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
                module.__dict__.pop(mark, None)
        model.config.__dict__.pop("_is_quantized", None)
        carry_this_file(model)
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Pruned models are saved like any other."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Pruned models are trained like any other."""
        return True


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
    """Name of the auto class that loads a model class."""
    return next(auto for auto in AUTO_CLASSES if name.endswith(auto.removeprefix("Auto").removeprefix("Model") or name))


def __getattr__(name: str) -> type[PreTrainedModel]:
    """The transformers class of that name, as a class of this module, so that saving copies this file along."""
    original = getattr(transformers, name, None)
    if not (isinstance(original, type) and issubclass(original, PreTrainedModel)):
        raise AttributeError(f"module {__name__} has no attribute {name}")
    marks = {"__module__": __name__, "__doc__": original.__doc__, "_auto_class": auto_class(name)}
    return globals().setdefault(name, type(name, (original,), marks))  # type: ignore[no-any-return]
