"""Keep what was measured, so that a later run need not measure again.

One safetensors file a measurement, named after a digest of its key, which holds everything that entered it. So a file
is never taken for other data; one that is damaged, or says something else than its name, is left out and written anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimformer import processes
from trimformer.errors import CheckpointError
from trimformer.model.folders import whole_file

DIGEST_CHARACTERS = 16
LOGGER = logging.getLogger("trimformer")
ENVIRONMENT_VARIABLE = "TRIMFORMER_CACHE"


def default_folder() -> Path:
    """Find the folder of the cache: `$TRIMFORMER_CACHE`, or `.cache/trimformer` in the user's home."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or Path.home() / ".cache" / "trimformer")


class MeasuredCache:
    """A folder of measurements; `say` is told what was found there, in place of the package's log.

    Every key has `model` and `measured`, which say what of what; the rest is what else it depends on. Of several
    processes the first one reads, for all of them, and writes.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = LOGGER.info) -> None:
        self.folder = folder
        self.say = say

    def read(self, key: dict[str, Any]) -> dict[str, Tensor] | None:
        """Read a measurement, or None if there is none to be trusted; `say` is told what is found."""
        found = self._read(key) if processes.is_first() else None
        return processes.gathered(found or {}) or None

    def _read(self, key: dict[str, Any]) -> dict[str, Tensor] | None:
        path = self._path(key)
        if not path.exists():
            self._say_what_differs(path, key)
            return None
        try:
            with safe_open(path, framework="pt") as stored:
                if (stored.metadata() or {}).get("key") != _text(key):
                    self.say(f"{path} was written for something else: measuring again")
                    return None
                measured = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # not a dict
        except (SafetensorError, OSError):
            self.say(f"{path} is damaged: measuring again")
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
                save_file(tensors, new, metadata={"key": _text(key)})
        except CheckpointError as error:
            self.say(f"nothing is kept for later runs: {error}")

    def _path(self, key: dict[str, Any]) -> Path:
        """Name the file of a key; files of the same measurement of one model share the first part of their name."""
        about = _digest({name: key[name] for name in ("model", "measured")})
        return self.folder / f"{about}-{_digest(key)}.safetensors"

    def _say_what_differs(self, path: Path, key: dict[str, Any]) -> None:
        for other in sorted(self.folder.glob(f"{path.name.partition('-')[0]}-*.safetensors")):
            try:
                with safe_open(other, framework="pt") as stored:
                    found = json.loads((stored.metadata() or {}).get("key", "{}"))
            except (SafetensorError, OSError, ValueError):
                continue
            differing = [name for name in key if found.get(name) != key[name]]
            self.say(f"{other} was measured with other {', '.join(differing)}: measuring again")
            return


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(_text(key).encode()).hexdigest()[:DIGEST_CHARACTERS]


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
