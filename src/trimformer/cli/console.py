"""The output of a command: lines, warnings and progress bars on the terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from trimformer.cli.dialect import spoken
from trimformer.progress import Stages
from trimformer.report.characters import ERRORS

BAR_WIDTH = 20
"""Columns of a bar: with what it is of and the time left, it fits 80."""

for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=ERRORS)
out_console = Console()
error_console = Console(stderr=True)


def say(message: str) -> None:
    """Print a line on stderr."""
    error_console.print(Text(message), soft_wrap=True)


def written(what: str, path: Path, about: str = "") -> None:
    """Print a line on stdout that says where something was written; the path as it is, in one piece."""
    out_console.print(Text.assemble(f"{what}: ", (str(path), "bold"), f"   {about}" if about else ""), soft_wrap=True)


def warn(warnings: Iterable[str]) -> None:
    """Print each warning once, on stderr, in the words of the command that runs."""
    for warning in dict.fromkeys(warnings):
        error_console.print(Text.assemble(("Warning: ", "bold yellow"), spoken(warning)), soft_wrap=True)


def written_code(what: str, code: str) -> None:
    """Print a line of code on stdout, in one piece, so that it can be copied."""
    out_console.print(Text.assemble(f"{what}: ", (code, "bold")), soft_wrap=True, highlight=False)


@contextmanager
def progress_bars(console: Console, stages: int = 0) -> Iterator[Stages]:
    """Within the context, `progress(items, description)` shows a bar; a line where there is no terminal.

    Args:
        console: where to.
        stages: how many the command has; with 0 they are not numbered.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=BAR_WIDTH),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    if not console.is_terminal:
        yield Stages(_announced, stages)
        return
    with RichProgress(*columns, console=console) as bars:
        yield Stages(lambda items, description: bars.track(items, description=description), stages)


def _announced(items: Sequence[Any], description: str) -> Sequence[Any]:
    say(f"{description} …")
    return items
