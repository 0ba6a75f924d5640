"""Output folders that appear whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from trimformer.errors import CheckpointError


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Within the context, fill a new folder beside `out`: at the end it replaces `out`, on an error it vanishes.

    Yields the path of the new folder, which is yet to be made.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            new = Path(scratch) / "new"
            yield new
            _put_in_place(new, out, Path(scratch) / "old")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {out}: {error}; free some space or choose another `out`") from error


def _put_in_place(new: Path, target: Path, old: Path) -> None:
    """Rename `new` to `target`; what was there becomes `old`, and comes back if that fails."""
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
