"""Progress: who shows a bar, and the number of the stage that it belongs to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from trimformer.errors import InvalidOption

Progress = Callable[[Sequence[Any], str], Any]
"""Function that wraps a sequence to show a bar: `for batch in progress(batches, "calibrating")`."""
Asked = Progress | bool | None
"""Whatever Python users give as `progress`: a function, True, False, or None for what suits the place."""
NOTEBOOK = "ipykernel"
"""Package that is there where code runs in a notebook."""


MINUTE = 60.0
SILENCE = 30.0
"""Seconds of work after which a line tells how far it is, where no bar is shown."""


class Stages:
    """A progress that says at which stage of a story it is: `2 of 4: removal curves`.

    Bars of more stages than were counted have no number, nor have those before the first one.

    >>> stages = Stages(lambda items, description: print(description), 2)
    >>> stages.enter("measuring")
    >>> stages([], "removal curves")
    1 of 2: removal curves
    """

    def __init__(self, show: Progress, count: int, say: Callable[[str], None] | None = None) -> None:
        """Number the bars of `show`, in a story of `count` stages; `say` writes a line beside them, None no lines."""
        self.show = show
        self.count = count
        self.say = say or _unsaid
        self.number = 0
        self._stage = self._detail = ""
        self._searching = False

    def __call__(self, items: Sequence[Any], description: str) -> Any:
        """Wrap a sequence to show a bar."""
        number = f"{self.number} of {self.count}" if 0 < self.number <= self.count else ""
        place = ", ".join(filter(None, (number, self._detail)))
        return self.show(items, f"{place}: {description}" if place else description)

    def enter(self, stage: str) -> None:
        """Go on to a stage; the one that the story is at is not counted again."""
        if stage != self._stage and not self._searching:
            self._stage = stage
            self.number += 1

    def more(self, count: int) -> None:
        """Count further stages, which were not foreseen; within a search all is one."""
        self.count += 0 if self._searching else count

    @contextmanager
    def searching(self) -> Iterator[Callable[[str], None]]:
        """Within the context, all is one stage; the function that it gives says where the search is."""
        self.enter("searching")
        self._searching = True
        try:
            yield self._tell
        finally:
            self._searching, self._detail = False, ""

    def _tell(self, detail: str) -> None:
        self._detail = detail


def duration(seconds: float) -> str:
    """Write about how long something takes.

    >>> duration(372), duration(95), duration(3), duration(9000)
    ('about 6 min', 'about 2 min', 'about 3 s', 'about 2.5 h')
    """
    if seconds < MINUTE:
        return f"about {max(1, round(seconds))} s"
    minutes = seconds / MINUTE
    return f"about {minutes:.0f} min" if minutes < MINUTE else f"about {minutes / MINUTE:.1f} h"


def told(items: Sequence[Any], description: str, say: Callable[[str], None]) -> Iterator[Any]:
    """Go through a sequence, and say now and then how far it is and how long the rest takes.

    Args:
        items: what is worked on.
        description: what is done.
        say: writes a line; after half a minute, and then whenever a tenth more of the time has gone by.
    """
    start = said = monotonic()
    for done, item in enumerate(items):
        now = monotonic()
        if now - said >= max(SILENCE, (now - start) / 10):
            said, left = now, (now - start) / done * (len(items) - done)
            say(f"{description}: {done:,} of {len(items):,}, {duration(left)} to go")
        yield item


def staged(asked: Asked, count: int) -> Stages:
    """Make a progress with numbered stages of what a Python user gave as `progress`.

    Args:
        asked: a function shows it; True shows bars, False nothing; None shows bars on a terminal and in a notebook.
        count: stages of the story. What has stages already keeps its own.

    Raises:
        InvalidOption: something else.
    """
    if isinstance(asked, Stages):
        return asked
    if callable(asked):
        return Stages(asked, count)
    if not (asked is None or isinstance(asked, bool)):
        raise InvalidOption(
            f"`progress` is a {type(asked).__name__}: give True, False, or a function of a sequence and a text, "
            "such as `lambda items, text: tqdm(items, desc=text)`"
        )
    shown = asked or (asked is None and _is_watched())
    return Stages(_bar, count, _line) if shown else Stages(_nothing, count)


def _is_watched() -> bool:
    """Tell whether somebody looks on: standard error is a terminal, or the code runs in a notebook."""
    return (sys.stderr is not None and sys.stderr.isatty()) or NOTEBOOK in sys.modules


def _bar(items: Sequence[Any], description: str) -> Any:
    from tqdm.auto import tqdm  # noqa: PLC0415  # `trimformer --help` does not wait for it

    return tqdm(items, desc=description, leave=False)


def _line(text: str) -> None:
    from tqdm.auto import tqdm  # noqa: PLC0415  # as above

    tqdm.write(text, file=sys.stderr)


def _unsaid(_: str) -> None:
    pass


def _nothing(items: Sequence[Any], _: str) -> Sequence[Any]:
    return items
