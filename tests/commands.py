"""For the tests of the command line: how a command ended and what it printed, a user's mistake, and rows of data."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import WORDS
from trimformer.cli import app


class Result(NamedTuple):
    """Exit code, standard output and standard error."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


def execute(*arguments: object) -> int:
    """Run a command in this process and give its exit code."""
    try:
        app.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command and gives its exit code and what it printed."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        return Result(execute(*arguments), *capsys.readouterr())

    return run


def assert_mistake(result: Result, *said: str) -> None:
    """Exit code 2, and one line that says all of this."""
    assert result.code == 2, result
    assert result.out == ""
    lines = [line for line in result.err.strip().splitlines() if not line.endswith(" …")]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("Error: ")
    for part in said:
        assert part in lines[0]


def rows(count: int, seed: int) -> list[dict[str, object]]:
    """Random sentences with two labels."""
    generator = random.Random(seed)  # noqa: S311  # words for a test
    return [
        {"sentence": " ".join(generator.choices(WORDS.split(), k=generator.randint(3, 9))), "label": index % 2}
        for index in range(count)
    ]


def write(file: Path, values: list[dict[str, object]]) -> None:
    """JSON Lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in values))
