"""Processes that were started together, by torchrun or `accelerate launch`: they meet, one speaks, all end together."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from trimformer.errors import ProcessLost, first_line

MEETING = timedelta(minutes=5)
"""Time that the processes wait for each other at the start."""
OWN_SECONDS, LOST_SECONDS = 2, 3
"""Seconds a process waits for another to say why all end: with an error of its own, and because another ended."""
LEAVING_SECONDS = 3
EVERY_SECONDS = 0.05
SAID, LEFT = "trimformer: why the run ends", "trimformer: left"


@dataclass(frozen=True)
class Launch:
    """One of the processes of a run, and the store by which they agree who speaks; None where it is alone.

    PyTorch is imported only where there are several.
    """

    store: Any = None
    index: int = 0
    """Number of this process, from 0."""

    def speaks(self, *, lost: bool) -> bool:
        """Tell whether this process is the one that says why the run ends; all others end silently.

        The first process goes before others, and those with an error of their own before those that only `lost` one.
        """
        if self.store is None:
            return True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is near; torchrun need not hurry it
        wait = LOST_SECONDS * lost + OWN_SECONDS * bool(self.index)
        try:
            return not _there(self.store, [SAID], wait) and bool(self.store.add(SAID, 1) == 1)
        except RuntimeError:  # its keeper is gone
            return True

    @contextmanager
    def only_first_prints(self) -> Iterator[None]:
        """Within the context, all processes but the first print nothing."""
        with ExitStack() as stack:
            if self.index:
                nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield


def process_count() -> int:
    """Count the processes that were started together, as torchrun tells each of them; 1 without it."""
    return int(os.environ.get("WORLD_SIZE") or 1)


@contextmanager
def launched() -> Iterator[Launch]:
    """Within the context, the processes of this launch are one group, each with a GPU of its own if there are enough.

    Raises:
        ProcessLost: they do not find each other, or this one is told to end.
    """
    if process_count() == 1:
        yield Launch()
        return
    import torch
    from torch import distributed as dist
    from torch.distributed.rendezvous import rendezvous

    from trimformer import processes

    try:
        store, rank, size = next(rendezvous("env://", timeout=MEETING))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=processes.PATIENCE)
        processes.connected()
    except (RuntimeError, ValueError) as error:
        raise ProcessLost(
            f"the processes of this run do not find each other ({first_line(error)}): start them with torchrun"
        ) from error
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or rank) % torch.cuda.device_count())
    try:
        with _until_left(store, rank, size):
            yield Launch(store, rank)
    except SystemExit as end:  # all is said
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))  # threads of PyTorch may wait for processes that are gone while Python tidies up


@contextmanager
def _until_left(store: Any, rank: int, size: int) -> Iterator[None]:
    """After the context, the first process, which may keep the store, waits a little until others need it no more."""
    from torch import distributed as dist

    try:
        yield
    finally:
        dist.destroy_process_group()
        with suppress(RuntimeError):
            if rank:
                store.set(f"{LEFT} {rank}", "")
            else:
                _there(store, [f"{LEFT} {other}" for other in range(1, size)], LEAVING_SECONDS)


def _there(store: Any, keys: list[str], seconds: float) -> bool:
    """Tell whether the store has some keys, or will within some seconds; its own way to wait complains if in vain."""
    end = monotonic() + seconds
    while not (there := store.check(keys)) and monotonic() < end:
        sleep(EVERY_SECONDS)
    return bool(there)
