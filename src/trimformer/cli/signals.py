"""Signals that ask a run to end: each ends it as Ctrl-C does, so that what is unfinished goes, and is remembered."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from trimformer.cli.launch import process_count
from trimformer.errors import ProcessLost

ASKING = ("SIGINT", "SIGTERM", "SIGHUP")
"""Names of the signals, Ctrl-C's among them; a system may lack one of them."""
BY_KEYBOARD = signal.SIGINT


@dataclass
class Asked:
    """The signal that asked this run to end, if one did."""

    number: int | None = None

    @property
    def code(self) -> int:
        """Exit code of a run that was interrupted: 128 and the signal's number, as shells have it."""
        return 128 + (self.number or BY_KEYBOARD)

    @property
    def message(self) -> str:
        """Say what ended the run."""
        by_keyboard = self.number in (None, BY_KEYBOARD)
        return "interrupted" if by_keyboard else f"stopped by {signal.Signals(self.number or BY_KEYBOARD).name}"

    def __call__(self, number: int, _: FrameType | None) -> None:
        """End the run; of further signals only Ctrl-C's is heard. One of several processes is lost to the others."""
        self.number = number
        for each in _ours():
            signal.signal(each, signal.default_int_handler if each == BY_KEYBOARD else signal.SIG_IGN)
        if process_count() > 1 and number != BY_KEYBOARD:
            raise ProcessLost(f"{self.message}: another process of this run has ended, or somebody stopped the run")
        raise KeyboardInterrupt


@contextmanager
def ending_at_signals() -> Iterator[Asked]:
    """Within the context, signals end the run by an exception; those that are ignored, as under nohup, stay ignored.

    Only the main thread can do so: in others nothing is changed.
    """
    asked = Asked()
    heard = [number for number in _ours() if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in heard} if _in_main_thread() else {}
    try:
        for number in before:
            signal.signal(number, asked)
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ours() -> list[int]:
    return [int(getattr(signal, name)) for name in ASKING if hasattr(signal, name)]


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
