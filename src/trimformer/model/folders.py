"""Output folders that appear whole or not at all."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from trimformer.errors import CheckpointError

REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Numbers of the errors of places where nothing may be written, however much room there is."""


def check_place(path: Path) -> None:
    """Refuse a file or folder that cannot be made, before any work is done.

    It is tried: an empty folder is made where the first missing one is to be, and removed at once. That finds read-only
    file systems, which permissions say nothing of.

    Raises:
        CheckpointError: names the folder that cannot be written to, and the reason.
    """
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}."[:32], dir=parent):
            pass
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be made: {parent} cannot be written to ({reason(error)}); choose another place"
        ) from None


def reason(error: Exception) -> str:
    """Say why something could not be written, without the path that the message names already."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


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
        remedy = "choose" if getattr(error, "errno", None) in REFUSED else "free some space or choose"
        raise CheckpointError(f"cannot write {out}: {reason(error)}; {remedy} another `out`") from error


def _put_in_place(new: Path, target: Path, old: Path) -> None:
    """Rename `new` to `target`; what was there becomes `old`, and comes back if that fails."""
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
