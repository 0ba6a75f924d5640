"""Modules of a pruned model that its class does not have: attention without heads, projections that are gone.

A copy of this file goes into every checkpoint, beside that of `modeling_trimformer`; it needs torch and transformers
only.
"""

from __future__ import annotations

from inspect import signature
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

    def replace(self, replaced: nn.Module, owned: list[str]) -> None:
        """Take the place of an attention module; keep the output projection if it owns one, and a norm behind it."""
        nn.Module.__init__(self)
        self.training = replaced.training
        self.config: Any = getattr(replaced, "config", None)
        self.layer_idx: int | None = getattr(replaced, "layer_idx", getattr(replaced, "layer_id", None))
        self.arguments = list(signature(type(replaced).forward).parameters)[2:]
        self.head_dim: int = getattr(replaced, "head_dim", 1)
        self.output_name, self.norm_name = (*owned, None, None)[:2]
        self._is_hf_initialized = True
        for name in owned:
            self.add_module(name, replaced.get_submodule(name))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the replaced class: the instance's own class is made when it is needed."""
        return _new_no_heads, (self.replaces,), self.__dict__

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Turn `(batch, tokens, width)` into `(batch, tokens, 0)`, projected where the module owns the projection.

        Some attention modules, such as BLOOM's, add to the residual stream themselves: it is an argument then.

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
        residual = (dict(zip(self.arguments, args, strict=False)) | kwargs).get("residual")
        output = output if residual is None else output + residual
        if self.norm_name is not None:
            output = self.get_submodule(self.norm_name)(hidden_states + output)
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


def module_at(base: nn.Module, path: str) -> nn.Module:
    """Find a module by its path below the base model.

    Raises:
        ValueError: there is none.
    """
    try:
        return base.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"the checkpoint names {path}, which {type(base).__name__} does not have") from error


def projection_at(base: nn.Module, path: str) -> Any:
    """Find a projection, or what is left of one, by its path.

    Raises:
        ValueError: nothing or something else is there.
    """
    found = module_at(base, path)
    if not isinstance(found, Projection | BiasOnly):
        raise ValueError(f"{path} is a {type(found).__name__}, the checkpoint expects a projection")
    return found


def leave_out(base: nn.Module, path: str) -> None:
    """Replace a projection that has no inputs or no outputs by its bias; others stay."""
    projection: Any = base.get_submodule(path)
    sizes = sizes_of_projection(projection)
    if 0 in sizes:
        base.set_submodule(path, BiasOnly(sizes[0], sizes[1], projection.bias).train(projection.training))


def add_bias(projection: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Give a projection, or what is left of one, a bias of zeros."""
    _, out_features = sizes_of_projection(projection)
    projection.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device))


def empty_attention(base: nn.Module, path: str, owned: list[str]) -> None:
    """Replace an attention module by one without heads, which keeps what it owns: see `NoHeads.replace`."""
    replaced = base.get_submodule(path)
    empty = _new_no_heads(type(replaced))
    empty.replace(replaced, owned)
    base.set_submodule(path, empty)


class OwnConfig:
    """The config of a model as one of its modules sees it: with sizes of its own, all else as it is there."""

    def __init__(self, shared: Any) -> None:
        self.shared = shared

    def __getattr__(self, name: str) -> Any:
        if name == "shared":  # asked for by copies that are not filled yet
            raise AttributeError(name)
        return getattr(self.shared, name)


class HeadSelection:
    """Hook that gives an attention module, of arguments with an entry for every head, the entries of its own heads.

    Args:
        kept: the heads that the module has, among those of the original.
        of: number of heads of the original.
        arguments: names of arguments of its forward pass, with the axis of heads; that may be batch times heads.
    """

    def __init__(self, kept: list[int], of: int, arguments: dict[str, int]) -> None:
        self.kept, self.of, self.arguments = kept, of, arguments
        self.places: dict[str, int] = {}

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Select in positional and keyword arguments alike."""
        places = {self.places[name]: axis for name, axis in self.arguments.items()}
        selected = tuple(self._of(each, places[at]) if at in places else each for at, each in enumerate(args))
        named = {name: self._of(kwargs[name], axis) for name, axis in self.arguments.items() if name in kwargs}
        return selected, kwargs | named

    def _of(self, values: Any, axis: int) -> Any:
        if values is None or values.shape[axis] % self.of:
            return values
        by_head = values.unflatten(axis, (-1, self.of))
        return by_head.index_select(axis + 1, torch.tensor(self.kept, device=values.device)).flatten(axis, axis + 1)


def select_heads(module: nn.Module, selection: HeadSelection) -> None:
    """Make a module select heads; where it does so already, the selection is one among the heads that it selects.

    Raises:
        ValueError: its forward pass has no such argument.
    """
    before = _selection_of(module)
    if before is not None:
        before.kept = [before.kept[head] for head in selection.kept]
        return
    names = list(signature(type(module).forward).parameters)[1:]
    if not set(selection.arguments) <= set(names):
        raise ValueError(f"{type(module).__name__} does not have all of the arguments {', '.join(selection.arguments)}")
    selection.places = {name: names.index(name) for name in selection.arguments}
    module.register_forward_pre_hook(selection, with_kwargs=True)


def _selection_of(module: nn.Module) -> HeadSelection | None:
    hooks = getattr(module, "_forward_pre_hooks").values()  # noqa: B009  # no public list of them
    return next((hook for hook in hooks if isinstance(hook, HeadSelection)), None)


def head_selections(base: nn.Module, path: str) -> dict[str, dict[str, Any]]:
    """Give the selection of a module below the base model by its path, as `config.json` has it; empty without."""
    found = _selection_of(base.get_submodule(path))
    return {path: {"kept": found.kept, "of": found.of, "arguments": found.arguments}} if found else {}
