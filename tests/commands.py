"""For the tests of the command line: how a command ended and what it printed, a user's mistake, and rows of data."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import WORDS
from trimformer.cli import app

PRELOADED = ["commands", "tiny_models", "trimformer.pruning.pruner", "trimformer.judging.project"]


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


class Forked:
    """A command in a process of its own, which has imported everything already; its streams go to files.

    A new Python takes seconds to import PyTorch and transformers; these are forked from one that has.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: Path) -> None:
        self.files = [folder / "out.txt", folder / "err.txt"]
        for file in self.files:
            file.touch()
        self.process = forkserver().Process(target=_run_forked, args=(arguments, environment, self.files))
        self.process.start()

    def end(self, timeout: float) -> Result:
        """Wait for its end."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"it hangs: {self.files[1].read_text()}"
        return Result(self.process.exitcode, *(file.read_text() for file in self.files))

    def wait_until_it_says(self, text: str, timeout: float) -> None:
        """Wait for a text on standard error."""
        end = time.monotonic() + timeout
        while text not in self.files[1].read_text():
            assert self.process.is_alive(), self.files[1].read_text()
            assert time.monotonic() < end, f"it hangs: {self.files[1].read_text()}"
            time.sleep(0.05)


def forkserver() -> ForkServerContext:
    """Where processes come from that need not import anything again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _run_forked(arguments: list[str], environment: dict[str, str], files: list[Path]) -> None:
    os.environ.update(environment)
    for stream, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY), stream)
    app.main(arguments)


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
