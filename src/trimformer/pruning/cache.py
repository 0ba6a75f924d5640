"""Keep what was measured, so that a later run need not measure again.

One safetensors file a measurement, named after a digest of its key, which holds everything that entered it. So a file
is never taken for other data. It stores names, types and shapes of its tensors beside them, and a digest of all: a file
in which any of these is another, or that says something else than its name, is not believed, and written anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimformer import processes
from trimformer.errors import CheckpointError, DataError, first_line, reading
from trimformer.model.folders import whole_file

DIGEST_CHARACTERS = 16
LOGGER = logging.getLogger("trimformer")
KEY, HOLDS, DIGEST = "key", "holds", "digest"
"""What a file says of itself: what it was measured of, the types and shapes of its tensors, and the digest of all."""
ENVIRONMENT_VARIABLE = "TRIMFORMER_CACHE"


def default_folder() -> Path | None:
    """Find the folder of the cache: `$TRIMFORMER_CACHE`, or `.cache/trimformer` at home; None without a home."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    try:
        return Path(named) if named else Path.home() / ".cache" / "trimformer"
    except RuntimeError:  # Python's word for a user without a home
        return None


class MeasuredCache:
    """A folder of measurements; `say` is told of everything found there, in place of the package's log.

    Every key has `model` and `measured`, which say what of what; the rest is what else it depends on. Of several
    processes the first one reads, for all of them, and writes.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] | None = None) -> None:
        self.folder = folder
        self.say = say or LOGGER.info
        self.warn = say or LOGGER.warning

    def read(self, key: dict[str, Any]) -> dict[str, Tensor] | None:
        """Read a measurement, or None if there is none to be trusted; `say` is told what is found."""
        found = self._read(key) if processes.is_first() else None
        return processes.gathered(found or {}) or None

    def _read(self, key: dict[str, Any]) -> dict[str, Tensor] | None:
        path = self._path(key)
        try:
            if not path.exists():
                self._say_what_differs(path, key)
                return None
            measured = _tensors(path, _text(key))
        except (DataError, OSError) as error:
            self.warn(f"{first_line(error)}: measuring again")
            return None
        self.say(f"reusing what {path} has of this model and data")
        return measured

    def write(self, key: dict[str, Any], measured: dict[str, Tensor]) -> None:
        """Store a measurement, if there is any; the file appears whole or not at all. `say` is told of a failure."""
        if not measured or not processes.is_first():
            return
        try:
            tensors = {name: values.cpu().contiguous().clone() for name, values in measured.items()}  # some are views
            with whole_file(self._path(key)) as new:
                save_file(tensors, new, metadata=_seal(_text(key), tensors))
        except CheckpointError as error:
            self.warn(f"nothing is kept for later runs: {error}")

    def _path(self, key: dict[str, Any]) -> Path:
        """Name the file of a key; files of the same measurement of one model share the first part of their name."""
        about = _digest({name: key[name] for name in ("model", "measured")})
        return self.folder / f"{about}-{_digest(key)}.safetensors"

    def _say_what_differs(self, path: Path, key: dict[str, Any]) -> None:
        for other in sorted(self.folder.glob(f"{path.name.partition('-')[0]}-*.safetensors")):
            try:
                with reading(other, UNBELIEVED), safe_open(other, framework="pt") as stored:
                    found = dict(json.loads((stored.metadata() or {})[KEY]))
            except DataError:
                continue
            differing = [name for name in key if found.get(name) != key[name]]
            self.say(f"{other} was measured with other {', '.join(differing)}: measuring again")
            return


UNBELIEVED = "it is damaged, and not believed"


def _tensors(path: Path, key: str) -> dict[str, Tensor]:
    """Read the tensors of a file, if all of it is as it was written.

    Raises:
        DataError: it was written for another key, or anything in it is another now.
    """
    with reading(path, UNBELIEVED), safe_open(path, framework="pt") as stored:
        said: dict[str, str] = stored.metadata() or {}
        if KEY in said and said[KEY] != key:
            raise DataError(f"{path} was written for something else")
        measured = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # not a dict
    if _seal(key, measured) != said:
        raise DataError(f"{path} is damaged, or of an earlier version")
    return measured


def _seal(key: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Make what a file says of itself."""
    kinds = {name: [str(values.dtype), *values.shape] for name, values in sorted(tensors.items())}
    holds = json.dumps(kinds)
    digest = hashlib.sha256(f"{key}\n{holds}".encode())
    for name in kinds:
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return {KEY: key, HOLDS: holds, DIGEST: digest.hexdigest()}


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(_text(key).encode()).hexdigest()[:DIGEST_CHARACTERS]


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
