"""Several processes that prune one model together: which of them computes what, and what all of them then know.

Every process holds the model and all batches, and computes its share of them. Sums are added up over the processes, so
that all go on with the same statistics; what then is decided or solved is what the first process decides or solves.
A process that is alone takes everything, and gets back what it gives.

Tensors travel through the host by gloo, whatever the device and whatever group the processes already are: nothing is
pickled, and processes may share a GPU. What exchanges must be called by all of them, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch import distributed as dist

from trimformer.errors import ProcessLost

PATIENCE = timedelta(hours=6)
"""Longest wait for a process that lives but does not come; one that ends is noticed at once."""
_GROUPS: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""Our gloo group, by the id of PyTorch's group of all processes; it lives until PyTorch is told to destroy it."""


def count() -> int:
    """Count the processes that work together; 1 where PyTorch has no process group."""
    return dist.get_world_size() if _grouped() else 1


def index() -> int:
    """Give the number of this process, from 0."""
    return dist.get_rank() if _grouped() else 0


def is_first() -> bool:
    """Tell whether this is the one process that decides, writes and speaks."""
    return index() == 0


def own_places(weights: Sequence[float]) -> list[int]:
    """List the items that this process takes, by index: every item has one owner, and all have about as much to do."""
    return [place for place, owner in enumerate(shared_out(weights, count())) if owner == index()]


def shared_out(weights: Sequence[float], processes: int) -> list[int]:
    """Assign items to processes by weight, the heaviest first, each to one that has least: the owner of each item.

    The first item is the first process's. No process is without one where there are enough of them.

    >>> shared_out([3.0, 2.0, 2.0, 1.0], 2)
    [0, 1, 1, 0]
    """
    owners, loads = [0] * len(weights), [0.0] * processes
    for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += weights[place]
    return [(owner - owners[0]) % processes for owner in owners]


def add_up(*sums: Tensor) -> None:
    """Turn sums over this process's share into sums over all, in place; the same to the last bit on every process."""
    if count() == 1:
        return
    for values in sums:
        host = values.cpu().contiguous()
        with _together():
            dist.all_reduce(host, group=connected())
        values.copy_(host)


def agreed(values: Tensor) -> Tensor:
    """Give every process the first one's tensor; shape and type must be the same on all."""
    if count() == 1:
        return values
    host = values.detach().cpu().clone(memory_format=torch.contiguous_format)
    with _together():
        dist.broadcast(host, 0, group=connected())
    return host.to(values.device)


def agreed_number(number: float) -> float:
    """Give every process the first one's number."""
    return float(agreed(torch.tensor(number, dtype=torch.float64)))


def agreed_masks(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give every process the first one's masks, name by name."""
    return {name: agreed(mask) for name, mask in masks.items()}


def gathered(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """All-gather named tensors, on the CPU; names and shapes need not be known to the other processes.

    A process that is alone gets its own tensors back, where they are.
    """
    if count() == 1:
        return named
    own = _packed(named)
    sizes = torch.zeros(count(), dtype=torch.long)
    sizes[index()] = len(own)
    add_up(sizes)
    found: dict[str, Tensor] = {}
    for process, size in enumerate(sizes.tolist()):
        packed = own if process == index() else torch.empty(size, dtype=torch.uint8)
        with _together():
            dist.broadcast(packed, process, group=connected())
        found |= load(packed.numpy().tobytes())
    return found


def _packed(named: dict[str, Tensor]) -> Tensor:
    apart = {name: values.detach().cpu().clone().contiguous() for name, values in named.items()}
    return torch.frombuffer(bytearray(save(apart)), dtype=torch.uint8)


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def connected() -> Any:
    """Give the gloo group of all processes, made once, with `PATIENCE`. From then on, one that ends is noticed."""
    found = _GROUPS.get(id(dist.group.WORLD))
    if found is None:
        found = _GROUPS[id(dist.group.WORLD)] = dist.new_group(backend="gloo", timeout=PATIENCE)
    return found


@contextmanager
def _together() -> Iterator[None]:
    """Within the context, a connection that breaks raises `ProcessLost`."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            "another process of this run has ended: it says why, unless it was killed, as for lack of memory"
        ) from error
