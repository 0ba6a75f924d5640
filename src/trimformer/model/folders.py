"""Files and folders that appear whole or not at all: the one way in which outputs are written.

They are filled beside their place, put on the disk, and exchanged with what is there in one step. See `claims` for what
happens to those of runs that were killed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from trimformer import processes
from trimformer.errors import CheckpointError
from trimformer.model.claims import OLD, claimed, real

REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Numbers of the errors of places where nothing may be written, however much room there is."""
FOREIGN = ("os error", "PytorchStreamWriter", "inline_container", "iostream error", "unexpected pos")
"""Parts of messages by which libraries that raise errors of no class of their own say that a file was not written."""
SAME_FOLDER, EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux, for `renameat2`."""


def check_place(path: Path) -> None:
    """Refuse a file or folder that cannot be made, before any work is done.

    It is tried: the folder that a run has beside its output is made, and removed at once. That finds read-only file
    systems, which permissions say nothing of. Of several processes, the first one tries.

    Raises:
        CheckpointError: names the folder that cannot be written to, and the reason; or another run is at work there.
    """
    if not processes.is_first():
        return
    parent = next(folder for folder in real(path).parents if folder.exists())
    if not parent.is_dir():
        raise CheckpointError(f"{path} cannot be made: {parent.name} is a file; choose another place")
    try:
        with claimed(path):
            pass
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be made: {parent} cannot be written to ({reason(error)}); choose another place"
        ) from None


def reason(error: Exception) -> str:
    """Say why something could not be written, without the path that the message names already."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def is_of_writing(error: Exception) -> bool:
    """Tell whether an error says that a file could not be written; libraries raise it as of any class."""
    foreign = type(error) in (Exception, RuntimeError) and any(part in str(error) for part in FOREIGN)
    return isinstance(error, (OSError, SafetensorError)) or foreign


@contextmanager
def explained(what: str | Path, *, other: str = "another `out`") -> Iterator[None]:
    """Within the context, an error of writing becomes one that says what could not be written, and what to do.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        yield
    except Exception as error:
        if not is_of_writing(error):
            raise
        remedy = "choose" if getattr(error, "errno", None) in REFUSED else "free some space or choose"
        raise CheckpointError(f"cannot write {what}: {reason(error)}; {remedy} {other}") from error


@contextmanager
def whole_folder(out: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Within the context, fill a new folder beside `out`: at the end it replaces `out`, on an error it vanishes.

    Yields the path of the new folder, which is yet to be made. A link is followed, and stays.

    Args:
        out: the folder to make.
        check: is called at the moment before it takes its place, to refuse what has come to be there.

    Raises:
        CheckpointError: it cannot be written, or another run is at work on it.
    """
    with explained(out), _filled(out, check) as (new, old):
        yield new
        for path in [new, *new.rglob("*")]:
            to_disk(path)
        check()
        _put_in_place(new, real(out), old)


@contextmanager
def whole_file(out: Path, *, other: str = "another file") -> Iterator[Path]:
    """Within the context, write a new file beside `out`: at the end it replaces `out`, on an error it vanishes.

    Yields the path of the new file, which has the same name. A link is followed, and stays.

    Raises:
        CheckpointError: it cannot be written, or another run is at work on it.
    """
    with explained(out, other=other), _filled(out, lambda: None) as (new, _):
        new.mkdir()
        yield new / out.name
        to_disk(new / out.name)
        (new / out.name).replace(real(out))
        to_disk(real(out).parent)


def write_text(text: str, out: Path) -> None:
    """Write a text file, whole or not at all.

    Raises:
        CheckpointError: it cannot be written, or another run is at work on it.
    """
    with whole_file(out) as new:
        new.write_text(text, encoding="utf-8")


@contextmanager
def _filled(out: Path, check: Callable[[], None]) -> Iterator[tuple[Path, Path]]:
    """Within the context, there is room beside an output for a new one, and for the one there is."""
    with claimed(out) as beside, tempfile.TemporaryDirectory(dir=beside, ignore_cleanup_errors=True) as room:
        check()
        yield Path(room) / "new", Path(room) / OLD


def to_disk(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder; systems that open no folders do without these."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        with suppress(PermissionError):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that keeps nothing
            raise
    finally:
        os.close(descriptor)


def _put_in_place(new: Path, target: Path, old: Path) -> None:
    """Exchange two folders in one step; where the system cannot, what was there becomes `old` for a moment.

    It comes back if that fails, and from a run that was killed then, by `claimed`.
    """
    if not (target.exists() and _exchanged(new, target)):
        try:
            if target.exists():
                target.rename(old)
            new.rename(target)
        finally:
            if old.exists() and not target.exists():
                old.rename(target)
    to_disk(target.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two paths at once, and tell whether that was done: Linux can, on most of its file systems."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if exchange is None:
        return False
    paths = (SAME_FOLDER, os.fsencode(one), SAME_FOLDER, os.fsencode(other))
    return bool(exchange(*paths, EXCHANGE) == 0)
