"""A device that is none: its tensors compute on the CPU, but refuse to meet those of the CPU, as a GPU's do.

`torch.device("lazy")` stands for it, which nothing else here uses. A tensor there is a wrapper around one of the CPU.
Every operation is seen by `elsewhere`: it refuses tensors of two devices (numbers in tensors of no axis excepted, and
indices, as on a GPU), computes on what is inside, and wraps the result. So a forgotten `.to(device)` is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from typing_extensions import Self

HERE, THERE = torch.device("cpu"), torch.device("lazy:0")
FROM_ANYWHERE = ("aten::copy_", "aten::_to_copy", "aten::to", "aten::index.Tensor", "aten::index_put")
"""Operations that take tensors of several devices: copies, and those with indices, which may be on the CPU."""


class There(Tensor):
    """A tensor on the device that is none."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Self:
        made = Tensor._make_wrapper_subclass(
            cls,
            inside.size(),
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=THERE,
            requires_grad=inside.requires_grad,
        )
        made.inside = inside
        return made

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """The values, to be replaced by others of another size: what is inside then is too."""
        return self.detach()

    @data.setter
    def data(self, values: There) -> None:
        Tensor.data.__set__(self, values)  # type: ignore[attr-defined]
        self.inside = values.inside

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.inside!r})"

    @classmethod
    def __torch_dispatch__(cls, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(operation, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[None]:
    """Within the context, tensors can be made on the device that is none."""
    with _FromLists(), _Computed():
        yield


class _Computed(TorchDispatchMode):
    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(operation, args, kwargs or {})


class _FromLists(TorchFunctionMode):
    """`torch.tensor` looks for a backend before any operation is seen."""

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if function is torch.tensor and given.get("device") is not None:
            return torch.tensor(*args, **{**given, "device": HERE}).to(given["device"])
        return function(*args, **given)


def compute(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation where its tensors are."""
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = any(isinstance(value, There) for value in given)
    name = operation.name()
    if there and not name.startswith(FROM_ANYWHERE):
        stranded = [value for value in given if not isinstance(value, There) and value.ndim]
        if stranded:
            raise RuntimeError(f"{name} has tensors on {THERE} and, of shape {tuple(stranded[0].shape)}, on {HERE}")
    asked = kwargs.get("device")
    target = there if asked is None else torch.device(asked).type == THERE.type
    if asked is not None:
        kwargs = {**kwargs, "device": HERE}
    inner_args, inner_kwargs = tree_map(lambda v: v.inside if isinstance(v, There) else v, (args, kwargs))
    found = operation(*inner_args, **inner_kwargs)
    if operation._schema.is_mutable and given and isinstance(found, Tensor):
        changed = [v for v in given if isinstance(v, There) and v.inside is found]
        if changed:
            return changed[0]
    return tree_map(lambda v: There(v) if isinstance(v, Tensor) else v, found) if target else found
