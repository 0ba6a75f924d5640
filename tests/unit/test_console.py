"""The terminal: everything fits 80 columns, and consoles without Unicode show plain characters."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Console

import trimformer.progress
from commands import execute
from example_facts import facts
from trimformer.cli import console
from trimformer.progress import told
from trimformer.report import terminal
from trimformer.report.characters import ERRORS
from trimformer.report.headline import headline

GUARD = {"max_drop": 0.01, "drop": 0.0083, "rows": 1000, "metric": "exact_match", "low": -0.0123, "high": 0.0283}
HARD = {"warnings": ["fell"], "guard": GUARD}


def drawn(width: int, encoding: str) -> str:
    """All tables of a result, as a console of that width and encoding has them."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors=ERRORS)
    screen = Console(file=file, width=width)
    for table in (
        terminal.result_table(facts(**HARD)),
        terminal.units_table(facts().pruning.units),
        terminal.sweep_table([facts(0.8), facts(0.2)]),
    ):
        screen.print(table)
    screen.print(headline(facts()), soft_wrap=True)
    bars = console.progress_bars(Console(file=file, width=width, force_terminal=True), stages=4)
    with bars as progress, progress.searching() as tell:
        tell("search 2 of 6, 55% kept, last lost 0.0031")
        list(progress(range(3000), "cutting and refitting"))
    file.flush()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", raw.getvalue().decode(encoding)).replace("\r", "\n")


@pytest.mark.parametrize("width", [80, 120])
def test_everything_fits(width: int) -> None:
    text = drawn(width, "utf-8")
    assert max(map(len, text.splitlines())) <= width
    for part in ("1.85× faster, 91 → 68 MB", "accuracy, 872 rows", "file of the weights", "3000/3000", "█"):
        assert part in text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437"])
def test_consoles_without_unicode_show_plain_characters(encoding: str) -> None:
    text = drawn(80, encoding)
    assert max(map(len, text.splitlines())) <= 80
    assert "faster, 91 -> 68 MB, accuracy 0.874 -> 0.861 " in text
    assert "\\u" not in text
    assert "?" not in text


def test_the_program_sets_its_streams_so(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    assert execute("--version") == 0
    console.out_console.print("91 → 69 MB")
    screen.seek(0)
    assert screen.read().endswith("91 -> 69 MB\n")


def test_long_work_says_how_far_it_is_where_no_bar_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(trimformer.progress, "monotonic", lambda: float(next(clock)))
    said: list[str] = []
    assert list(told(range(100), "fine-tuning", said.append)) == list(range(100))
    assert said[:2] == ["fine-tuning: 2 of 100, about 24 min to go", "fine-tuning: 5 of 100, about 19 min to go"]
    assert said[-1] == "fine-tuning: 93 of 100, about 1 min to go"
    assert len(said) < 25, "ever more seldom"


def test_short_work_says_nothing_more() -> None:
    said: list[str] = []
    assert list(told("abc", "reading", said.append)) == ["a", "b", "c"]
    assert not said
