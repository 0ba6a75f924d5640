"""Placement of a model: where it is put when it is loaded, and in which precision its weights stay."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from trimformer.errors import InvalidOption
from trimformer.model.parameters import DEVICE, DTYPE

_SIZE = re.compile(r"\d+(\.\d+)?[KMGT]i?B")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The device, precision and device map that a model is loaded with.

    Raises:
        InvalidOption: an unknown precision or device map, or a `max_memory` that cannot be read or has no map.
    """

    device: str = "cpu"
    """Device to compute on, such as `cpu` or `cuda`; `auto` is the accelerator if there is one."""
    dtype: str = "float32"
    """Precision of the weights, a choice of `DTYPE`; `auto`: the checkpoint's. Sums and solutions: float32 or more."""

    device_map: str | None = None
    """`auto` fills the GPU, then CPU memory, then the disk; None puts the whole model on the device."""
    max_memory: str | None = None
    """Memory that a device map may fill, such as `0=10GiB,cpu=20GiB`; None is all that is free."""

    def __post_init__(self) -> None:
        DEVICE.check(self.device)
        DTYPE.check(self.dtype)
        if self.device_map not in (None, "auto"):
            raise InvalidOption(f"`device_map={self.device_map}` must be auto; in Python, load the model with any map")
        if self.max_memory is not None and self.device_map is None:
            raise InvalidOption('`max_memory` says what a device map may fill: give `device_map="auto"` too')
        _ = self.loading_arguments

    @property
    def loading_arguments(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained`: a device map and its limits; none where there is no map.

        Raises:
            InvalidOption: `max_memory` is no list of devices with sizes.
        """
        if self.device_map is None:
            return {}
        limits: dict[int | str, str] = {}
        for entry in self.max_memory.split(",") if self.max_memory else ():
            device, equals, size = entry.strip().partition("=")
            if not (equals and (device.isdigit() or device in ("cpu", "disk")) and _SIZE.fullmatch(size)):
                raise InvalidOption(
                    f"`max_memory={entry}` must be a device and its size, such as `0=10GiB` or `cpu=20GiB`"
                )
            limits[int(device) if device.isdigit() else device] = size
        return {"device_map": self.device_map, "max_memory": limits or None}

    @property
    def torch_dtype(self) -> Any:
        """The `dtype` argument of `from_pretrained`: a `torch.dtype`, or `auto`."""
        return "auto" if self.dtype == "auto" else getattr(torch, self.dtype)


def find_device(name: str) -> torch.device:
    """Find the device of that name; `auto` is the accelerator if there is one, else the CPU.

    Raises:
        InvalidOption: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise InvalidOption(f"no device {name!r} on this machine; there is {', '.join(here)}") from None
    return device
