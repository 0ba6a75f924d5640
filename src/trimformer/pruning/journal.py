"""What a run has settled so far, kept on the disk: a run that was interrupted goes on from there, and ends the same.

Sublayers (and blocks, where these are trained) are kept one by one, in the order in which they are settled. What is
kept is bound to everything that decides it: weights, rows, method, options, seed, target. It is sealed as what is
measured, so that what is damaged is done anew, with all that comes after it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from trimformer.model.sites import Site
from trimformer.model.structure import Structure
from trimformer.model.surgery import cut_site, write_consumer
from trimformer.pruning.cache import MeasuredCache

EVERY_SECONDS, MOST_BYTES = 5.0, 2**26
"""When to write: after so many seconds, or once so much is settled. A run shorter than that writes nothing."""
MASK = "mask"
LOGGER = logging.getLogger("trimformer")


@dataclass(frozen=True)
class Journal:
    """A folder for what runs settle; `say` is told what is found there, in place of the package's log."""

    folder: Path
    say: Callable[[str], None] = LOGGER.info
    about: tuple[str, ...] = ()
    """Digests of what the work depends on."""

    @property
    def measured(self) -> MeasuredCache:
        """Room for what is measured before a target is known."""
        return MeasuredCache(self.folder, self.say)

    def on(self, *keys: Any) -> Journal:
        """Make the same journal for work that depends on more; keys are JSON, or tensors by name."""
        return replace(self, about=(*self.about, *map(_digest, keys)))

    def stage(self, name: str) -> Stage:
        """Open what is kept of one stage of the work."""
        return Stage(self.on(name))


class Stage:
    """One stage as it is kept, part by part, in the order in which it was settled."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.found = 0
        """Parts that were read so far."""
        self._is_open = True
        self._written = monotonic()
        self._pending: dict[str, dict[str, Tensor]] = {}

    def read(self, name: str) -> dict[str, Tensor] | None:
        """Read the next part; None where it is not there or damaged, and for all parts that follow one of these."""
        found = self._read(name) if self._is_open else None
        self.found += found is not None
        if found is None and self._is_open and self.found:
            self.journal.say(f"going on from an interrupted run, at {name}")
        self._is_open = found is not None
        return found

    def _read(self, name: str) -> dict[str, Tensor] | None:
        said: list[str] = []
        found = MeasuredCache(self.journal.folder, said.append).read(self._key(name))
        for line in said if found is None else ():
            self.journal.say(line)
        return found

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a part that is settled; it is on the disk soon, see `EVERY_SECONDS`."""
        self._pending[name] = {each: values.detach().cpu().clone() for each, values in tensors.items()}
        size = sum(values.nbytes for part in self._pending.values() for values in part.values())
        if monotonic() - self._written < EVERY_SECONDS and size < MOST_BYTES:
            return
        for each, part in self._pending.items():
            MeasuredCache(self.journal.folder, self.journal.say).write(self._key(each), part)
        self._pending.clear()
        self._written = monotonic()

    def _key(self, name: str) -> dict[str, Any]:
        return {"model": _digest(list(self.journal.about)), "measured": name}


def settled_weights(structure: Structure, site: Site, mask: Tensor) -> dict[str, Tensor]:
    """Collect what a site has become: its mask, and the weights of its projections by path."""
    weights = {
        f"{path}/{name}": values
        for path in _paths(site)
        for name, values in _weights(structure.base, path).items()
        if values is not None
    }
    return {MASK: mask, **weights}


@torch.no_grad()
def settle_again(structure: Structure, site: Site, kept: Mapping[str, Tensor]) -> Tensor:
    """Make a dense site what it had become, by what `settled_weights` collected; gives the mask."""
    cut_site(structure, site, kept[MASK])
    with structure.in_memory(site):
        if f"{site.consumer}/bias" in kept and structure.consumer_bias(site) is None:
            write_consumer(structure, site, structure.consumer_weight(site), torch.zeros(site.width))
        for path in _paths(site):
            for name, values in _weights(structure.base, path).items():
                if values is not None:
                    values.copy_(kept[f"{path}/{name}"])
    return kept[MASK]


def _paths(site: Site) -> list[str]:
    return [*dict.fromkeys([*(producer.path for producer in site.producers), *site.shared, site.consumer])]


def _weights(base: nn.Module, path: str) -> dict[str, Tensor | None]:
    """Give the weights of a module by name; none where it went with its sublayer."""
    owner, _, name = path.rpartition(".")
    try:
        module = getattr(base.get_submodule(owner), name)
    except AttributeError:
        return {}
    return dict(module.named_parameters(recurse=False))


def _digest(value: Any) -> str:
    """Compute a digest of tensors by name, or of what JSON has."""
    digest = hashlib.sha256()
    if isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values()):
        for name, values in sorted(value.items()):
            flat = values.detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(flat.flatten().view(torch.uint8).numpy().tobytes())
    else:
        digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()
