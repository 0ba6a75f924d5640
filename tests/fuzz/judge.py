"""Run a command on a damaged file, within bounds of time and memory, and judge how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import resource
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from commands import execute
from trimformer.cli import console

SECONDS, ASLEEP = 10, 6
GIGABYTES = 8
REFUSED, WORKS, LATE = "refused in one line", "works", "told and other"
OTHER, TRACEBACK, HANG, MANY_LINES, CRASH = "SILENTLY OTHER", "TRACEBACK", "HANG", "MORE THAN ONE LINE", "CRASH"
GOOD = {REFUSED, WORKS, LATE}
MISTAKE = 2


class Ending(NamedTuple):
    """How a command ended: exit code, what it printed, and a digest of its result."""

    code: int
    out: str
    err: str
    result: str


class Verdict(NamedTuple):
    """A word of the above, and why."""

    word: str
    why: str


class TookTooLong(BaseException):
    """The time is up."""


def ending(command: str, result: Path | None) -> Ending:
    """Run a command in this process; `HANG` where its time is up."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _own_streams(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = execute(*command.split())
    printed = out.getvalue()
    found = result.read_bytes() if result and result.exists() else b""
    return Ending(code, printed, err.getvalue(), hashlib.sha256(found).hexdigest() if result else printed)


@contextlib.contextmanager
def _own_streams() -> Iterator[None]:
    """Within the context, the consoles print to what the streams are now, not to what they were."""
    consoles = (console.out_console, console.error_console)
    before = [each._file for each in consoles]
    for each in consoles:
        each._file = None
    yield
    for each, file in zip(consoles, before, strict=True):
        each._file = file


def judged(command: str, result: Path | None, whole: Ending, *, told: bool) -> Verdict:
    """Judge how a command ends, beside how it ends with the whole file."""
    try:
        with _watchdog():
            found = ending(command, result)
    except TookTooLong:
        return Verdict(HANG, f"over {SECONDS} s")
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is the finding
        return Verdict(TRACEBACK, f"{type(error).__name__}: {error}"[:300])
    return _of(found, whole, told=told)


def _of(found: Ending, whole: Ending, *, told: bool) -> Verdict:
    lines = [line for line in found.err.splitlines() if line and not line.endswith("…")]
    errors = [line for line in lines if line.startswith("Error: ")]
    if found.code == MISTAKE:
        said = lines[-1][:200] if lines else ""
        return Verdict(REFUSED if len(errors) == 1 and lines[-1] == errors[0] else MANY_LINES, said)
    if found.code or "Traceback" in found.err:
        return Verdict(TRACEBACK, (errors or lines or [f"exit code {found.code}"])[-1][:300])
    if found.result == whole.result:
        return Verdict(WORKS, "")
    said_more = set(found.err.splitlines()) - set(whole.err.splitlines())
    if told and not any("damaged" in line or "measuring again" in line for line in said_more):
        return Verdict(OTHER, "")
    return Verdict(LATE if said_more else WORKS, "another result")


@contextlib.contextmanager
def _watchdog() -> Iterator[None]:
    """Within the context, time is up after `SECONDS` of work, or `ASLEEP` times as long in all."""

    def ring(*_: object) -> None:
        raise TookTooLong

    kinds = (signal.SIGPROF, signal.SIGALRM)
    before = [signal.signal(kind, ring) for kind in kinds]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, ASLEEP * SECONDS)
    try:
        yield
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def limit_memory() -> None:
    """Let this process have no more memory than `GIGABYTES` above what it has."""
    now = (
        int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        if Path("/proc").is_dir()
        else 0
    )
    resource.setrlimit(resource.RLIMIT_AS, (now + GIGABYTES * 2**30, resource.RLIM_INFINITY))
