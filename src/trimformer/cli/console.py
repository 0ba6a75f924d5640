"""The output of a command: lines, warnings and progress bars on the terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from trimformer.cli.dialect import spoken
from trimformer.progress import Stages, told
from trimformer.report.characters import ERRORS, in_a_line, visible

BAR_WIDTH = 16
"""Characters of a bar: where a console is narrow, the text beside it goes on in a second line."""


class _Visible:
    """Something to print, whose words do not steer the terminal: names in it are other people's."""

    def __init__(self, printed: Any) -> None:
        self.printed = printed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it; the styles, which are ours, stand beside the words."""
        for part in console.render(self.printed, options):
            yield part if part.control else Segment(visible(part.text), part.style)


class _AllVisible(RenderHook):
    """Makes everything that a console prints visible."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Visible(each) for each in renderables]


def _console(*, stderr: bool) -> Console:
    """Make a console that takes no word for markup or an emoji."""
    console = Console(stderr=stderr, markup=False, emoji=False)
    console.push_render_hook(_AllVisible())
    return console


out_console, error_console = _console(stderr=False), _console(stderr=True)


def replace_missing_characters() -> None:
    """Let standard output and error write plain characters in place of those that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def say(message: str) -> None:
    """Print a line on stderr."""
    error_console.print(Text(message), soft_wrap=True)


def written(what: str, path: Path, about: str = "") -> None:
    """Print a line on stdout that says where something was written; the path in one piece."""
    out_console.print(
        Text.assemble(f"{what}: ", (in_a_line(str(path)), "bold"), f"   {about}" if about else ""), soft_wrap=True
    )


def warn(warnings: Iterable[str]) -> None:
    """Print each warning once, on stderr, in the words of the command that runs."""
    for warning in dict.fromkeys(warnings):
        error_console.print(Text.assemble(("Warning: ", "bold yellow"), spoken(warning)), soft_wrap=True)


def headline(text: str, about: str = "") -> None:
    """Print the first line of a result on stdout, in one piece, with a second one about it and a free line below."""
    if text:
        out_console.print(Text(text, style="bold"), soft_wrap=True, highlight=False)
        out_console.print(Text(f"{about}\n" if about else ""), soft_wrap=True)


def remarks(said: Iterable[str]) -> None:
    """Print sentences about the tables above on stdout, with a free line before them."""
    out_console.print(Text("\n".join(["", *said])), highlight=False)


def written_code(what: str, code: str) -> None:
    """Print a line of code on stdout, in one piece, so that it can be copied."""
    out_console.print(Text.assemble(f"{what}: ", (code, "bold")), soft_wrap=True, highlight=False)


@contextmanager
def progress_bars(console: Console, stages: int = 0) -> Iterator[Stages]:
    """Within the context, `progress(items, description)` shows a bar; where there is no terminal, a line now and then.

    Args:
        console: where to.
        stages: how many the command has; with 0 they are not numbered.
    """
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=False)),
        BarColumn(bar_width=BAR_WIDTH, table_column=Column(no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
    if not console.is_terminal:
        yield Stages(_announced, stages, _said)
        return
    with RichProgress(*columns, console=console) as bars:
        yield Stages(lambda items, told: bars.track(items, description=visible(told)), stages, _said)


def _said(message: str) -> None:
    """Print a line of the core on stderr, in the words of the command that runs."""
    say(spoken(message))


def _announced(items: Sequence[Any], description: str) -> Iterator[Any]:
    say(f"{description} …")
    return told(items, description, say)
