"""Modules of a pruned model that its class does not have: attention without heads, projections that are gone.

A copy of this file goes into every checkpoint, beside that of `modeling_trimformer`; it needs torch and transformers
only.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.pytorch_utils import Conv1D

PLACEHOLDER_HEADS = 1
"""Heads in the key and value cache of an attention without heads."""
Projection: TypeAlias = nn.Linear | Conv1D
"""A linear layer; Conv1D is GPT-2's, whose weight is `(in_features, out_features)`."""


class BiasOnly(nn.Module):
    """A projection without inputs, or without outputs: gives its bias at every token, or zeros where it has none.

    It holds no weight of size zero, which libraries for quantization and for saving do not expect.
    """

    def __init__(self, in_features: int, out_features: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = bias if out_features else None

    @property
    def weight(self) -> Tensor:
        """Make an empty weight, `(out_features, in_features)`, for code that initialises or reads one."""
        like = torch.empty(0) if self.bias is None else self.bias
        return like.new_empty(self.out_features, self.in_features)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Turn `(…, in_features)` into `(…, out_features)`."""
        if self.out_features == 0:
            return hidden_states[..., :0]
        bias = hidden_states.new_zeros(self.out_features) if self.bias is None else self.bias
        # The sum of no numbers, zero: what comes before has a gradient then, of zeros, as trainers of all kinds expect.
        return hidden_states.sum(-1, keepdim=True) + bias


class NoHeads(nn.Module):
    """Attention without heads: hands an input of width zero to the output projection, which adds its bias.

    Instances are of the replaced class too: by that, transformers finds the modules that give attention matrices.
    """

    replaces: type[nn.Module]

    def replace(self, replaced: nn.Module, output_name: str | None) -> None:
        """Take the place of an attention module; keep the output projection if it owns one."""
        nn.Module.__init__(self)
        self.config: Any = getattr(replaced, "config", None)
        self.layer_idx: int | None = getattr(replaced, "layer_idx", None)
        self.head_dim: int = getattr(replaced, "head_dim", 1)
        self.output_name = output_name
        self._is_hf_initialized = True
        if output_name is not None:
            self.add_module(output_name, replaced.get_submodule(output_name))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the replaced class: the instance's own class is made when it is needed."""
        return _new_no_heads, (self.replaces,), self.__dict__

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Turn `(batch, tokens, width)` into `(batch, tokens, 0)`, projected where the module owns the projection.

        Returns:
            That, and where others give their attention matrices, those of no heads, `(batch, 0, tokens, keys)`.
        """
        batch, tokens = hidden_states.shape[:2]
        keys = tokens
        for cache in caches_in(args, kwargs) if self.layer_idx is not None else ():
            # A cache tells by one of its layers, often the first, how many tokens it holds.
            # Zeros as wide as others, because a quantized cache takes them in groups of a size.
            zeros = hidden_states.new_zeros(batch, PLACEHOLDER_HEADS, tokens, self.head_dim)
            keys = cache.update(zeros, zeros, self.layer_idx)[0].shape[-2]
        nothing = hidden_states[..., :0]
        output = nothing if self.output_name is None else self.get_submodule(self.output_name)(nothing)
        is_eager = getattr(self.config, "_attn_implementation", None) == "eager"
        return output, hidden_states.new_zeros(batch, 0, tokens, keys) if is_eager else None


def _new_no_heads(replaced: type[nn.Module]) -> NoHeads:
    if replaced not in _KINDS:
        _KINDS[replaced] = type("NoHeads", (NoHeads, replaced), {"replaces": replaced})
    return _KINDS[replaced].__new__(_KINDS[replaced])


_KINDS: dict[type[nn.Module], type[NoHeads]] = {}
"""Classes of attention without heads, by the class that they replace."""


def caches_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Find caches among arguments: versions of transformers differ in their names."""
    found = [value for value in (*args, *kwargs.values()) if isinstance(value, Cache)]
    return [getattr(cache, "self_attention_cache", cache) for cache in found]


def resize(projection: Projection, in_features: int, out_features: int) -> None:
    """Give a projection other sizes; its weight is uninitialised afterwards."""
    transposed = isinstance(projection, Conv1D)
    shape = (in_features, out_features) if transposed else (out_features, in_features)
    projection.weight = nn.Parameter(projection.weight.new_empty(shape))
    if projection.bias is not None:
        projection.bias = nn.Parameter(projection.bias.new_zeros(out_features))
    note_sizes(projection)


def note_sizes(projection: Projection) -> None:
    """Make the sizes that a projection names those of its weight."""
    if isinstance(projection, Conv1D):
        projection.nx, projection.nf = projection.weight.shape
    else:
        projection.out_features, projection.in_features = projection.weight.shape


def sizes_of_projection(projection: Any) -> list[int]:
    """Give the numbers of inputs and outputs of a projection, or of what is left of one."""
    is_conv = isinstance(projection, Conv1D)
    return [projection.nx, projection.nf] if is_conv else [projection.in_features, projection.out_features]


def leave_out(base: nn.Module, path: str) -> None:
    """Replace a projection that has no inputs or no outputs by its bias; others stay."""
    projection: Any = base.get_submodule(path)
    sizes = sizes_of_projection(projection)
    if 0 in sizes:
        base.set_submodule(path, BiasOnly(sizes[0], sizes[1], projection.bias))


def add_bias(projection: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Give a projection, or what is left of one, a bias of zeros."""
    _, out_features = sizes_of_projection(projection)
    projection.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device))


def empty_attention(base: nn.Module, path: str, output_name: str | None) -> None:
    """Replace an attention module by one without heads; it keeps the output projection if it owns one."""
    replaced = base.get_submodule(path)
    empty = _new_no_heads(type(replaced))
    empty.replace(replaced, output_name)
    base.set_submodule(path, empty)
