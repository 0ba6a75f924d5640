"""Folders that one run has for itself: beside an output while it is made, and in the system's place for scratch files.

Each holds a lock, which the system lets go of when the process that has it ends, however that ends. So a folder whose
lock is free is what a dead run left, and whoever takes the lock next clears it.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident
from typing import BinaryIO

from trimformer.errors import CheckpointError

if sys.platform != "win32":
    import fcntl

LOCK, OLD, FILES = "lock", "old", "files"
SCRATCH = "trimformer-"
WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Numbers of the errors of file systems that have no locks: there nothing is locked, and nothing of others cleared."""
_HELD: set[tuple[Path, int, int]] = set()
"""Outputs that are claimed, each with the numbers of the process and the thread that did so."""


class _Taken(Exception):
    """Raised where another run has a folder for itself."""


def real(out: str | Path) -> Path:
    """Find the place that an output is written to: the absolute path behind all links, whether it exists or not."""
    return Path(os.path.realpath(out))


@contextmanager
def claimed(out: str | Path) -> Iterator[Path]:
    """Within the context, an output is this run's alone; gives a folder beside it, which goes with all that it holds.

    What a run that was killed left there is cleared, and an output that it had put aside comes back. Contexts of one
    thread may lie within each other.

    Raises:
        CheckpointError: another run is at work on it.
        OSError: the folder cannot be made.
    """
    target = real(out)
    folder, key = target.with_name(f".{target.name}.trimformer"), (target, os.getpid(), get_ident())
    if key in _HELD:
        yield folder
        return
    try:
        with _with_parents(target.parent), _alone_in(folder) as is_locked:
            _HELD.add(key)
            try:
                if is_locked:
                    _clear(folder, target)
                yield folder
            finally:
                _HELD.discard(key)
    except _Taken:
        raise CheckpointError(
            f"another run is at work on {out}: wait until it has ended, or choose another `out`"
        ) from None


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Within the context, there is a folder for scratch files, in the system's place for them.

    What dead runs of the same user left there is removed.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{SCRATCH}*"):
        if (left / LOCK).exists():
            with suppress(OSError, _Taken), _alone_in(left):
                pass
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=place))
    try:
        with _alone_in(folder):
            (folder / FILES).mkdir()
            yield folder / FILES
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Within the context, a folder is this run's alone, and then goes; gives whether the file system could lock it.

    Raises:
        _Taken: another run has it.
    """
    with _opened(folder) as lock:
        is_locked = _take(lock)
        try:
            yield is_locked
        finally:
            for each in _all_but_lock(folder) if is_locked else ():
                _remove(each)
            if not _all_but_lock(folder):
                (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # the next run may have made its lock already
                folder.rmdir()


def _all_but_lock(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.name != LOCK]


@contextmanager
def _opened(folder: Path) -> Iterator[BinaryIO]:
    """Within the context, a folder is there, and its lock is open.

    The run that had a lock may remove it between its being opened and taken here: then there is a new one.
    """
    while True:
        folder.mkdir(exist_ok=True)
        try:
            opened = (folder / LOCK).open("ab")
        except FileNotFoundError:
            continue
        with opened as lock:
            _take(lock)
            if _is(folder / LOCK, lock):
                yield lock
                return


def _is(path: Path, opened: BinaryIO) -> bool:
    """Tell whether a file that was opened is still the one of that path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(opened.fileno()))
    except FileNotFoundError:
        return False


def _take(lock: BinaryIO) -> bool:
    """Take a lock, which this process may have already; tell whether there are locks here.

    Raises:
        _Taken: another process has it.
    """
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _Taken from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return False
    return True


def _clear(folder: Path, target: Path) -> None:
    """Remove what a dead run left in its folder; an output that it had put aside, and not replaced, comes back."""
    for left in _all_but_lock(folder):
        if (left / OLD).exists() and not target.exists():
            (left / OLD).rename(target)
        _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _with_parents(folder: Path) -> Iterator[None]:
    """Within the context, a folder is there with all above it; those that it made and that are empty then go."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()
