"""Run tests on the oldest and the newest versions that are supported, each in an environment of its own.

`python tests/matrix.py` makes the environments in `.venv-matrix` and runs a selection through every room; give paths of
tests to run others. `--cell NAME` runs one cell. A Python that is not installed is said and skipped; so is an
environment that cannot be had. `--python PATH` makes none: it runs the tests with a Python that has all they need.
Deprecation warnings of our own code fail, as in every run of the tests.

What a cell does not fix is the newest that pip takes, by pip's own settings (`PIP_EXTRA_INDEX_URL`, `PIP_FIND_LINKS`).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SELECTION = (
    "tests/contract/test_layout.py",
    "tests/contract/test_every_architecture.py",
    "tests/contract/test_every_method.py",
    "tests/unit/test_checkpoint.py",
    "tests/unit/test_cache.py",
    "tests/unit/test_data.py",
    "tests/unit/test_finetuning.py",
    "tests/unit/test_model_class.py",
    "tests/unit/test_offload.py",
    "tests/end_to_end/test_command_line.py",
)
"""Tests that reach every room, and everything of transformers that differs between its versions."""

FOREIGN = [
    part
    for each in ("`torch.jit.script:DeprecationWarning", "mtime may not be reliable:UserWarning")
    for part in ("-W", f"ignore:{each}")
]
"""Warnings that are none of ours: of what transformers 5.0 does with a newer PyTorch, and with its checkpoints."""


@dataclass(frozen=True)
class Cell:
    """One environment: a Python and the packages that are fixed in it; the others are the newest."""

    python: str
    packages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its folder."""
        return "-".join([f"py{self.python}", *(each.replace("==", "") for each in self.packages)])


KNOWN_TORCH = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
OLDEST_TORCH, OLDEST_TRANSFORMERS = "torch==2.6.0", "transformers==5.0.0"
CELLS = (
    Cell("3.10", (OLDEST_TRANSFORMERS, OLDEST_TORCH)),
    Cell("3.10"),
    Cell("3.11", (OLDEST_TRANSFORMERS, KNOWN_TORCH)),
    Cell("3.11", (KNOWN_TORCH,)),
    Cell("3.12"),
    Cell("3.13", (OLDEST_TORCH,)),
    Cell("3.13"),
)


def interpreter(version: str) -> str | None:
    """Find a Python of a version that runs: on the path, or among those of pyenv, whose shims may run nothing."""
    installed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for place in (shutil.which(f"python{version}"), *sorted(installed.glob(f"{version}.*/bin/python"))):
        if place and subprocess.run([place, "--version"], capture_output=True, check=False).returncode == 0:
            return str(place)
    return None


def tried(cell: Cell, tests: list[str]) -> str:
    """Make an environment, if there is none yet, run the tests in it, and say how that ended."""
    python = interpreter(cell.python)
    if python is None:
        return f"skipped, there is no python{cell.python}"
    folder = ROOT / ".venv-matrix" / cell.name
    own = folder / "bin" / "python"
    if not (folder / "made").exists():
        pip = [str(own), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        for words in (
            [python, "-m", "venv", "--clear", str(folder)],
            [*pip, "-U", "pip"],
            [*pip, "--group", "test", "-e", ".[onnx]", *cell.packages],
        ):
            made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
            if made.returncode:
                last = (made.stderr.strip().splitlines() or ["?"])[-1]
                return f"skipped, the environment cannot be had: {last}"
        (folder / "made").touch()
    return ended(str(own), tests)


def ended(python: str, tests: list[str]) -> str:
    """Run tests with a Python, print what they print, and say on which versions that was and how it ended."""
    names = (
        "import platform as p, torch as o, transformers as t; print(p.python_version(), o.__version__, t.__version__)"
    )
    found = subprocess.run([python, "-c", names], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        return f"FAILED, {found.stderr.strip().splitlines()[-1]}"
    versions = "Python {}, torch {}, transformers {}".format(*found.stdout.split())
    print(f"{versions}: {' '.join(tests)}", flush=True)
    words = [python, "-m", "pytest", "-q", *FOREIGN, *tests]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    last = ""
    with subprocess.Popen(words, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout or ():
            print(line, end="", flush=True)
            last = line.strip()
    return f"{'FAILED' if run.returncode else 'passed'} on {versions}: {last}"


def main() -> None:
    """Run all cells, or those that are named, or in an environment that is there; print how each ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", help="tests to run in place of the selection")
    parser.add_argument("--cell", action="append", choices=[cell.name for cell in CELLS])
    parser.add_argument("--python", action="append", metavar="PATH", help="run with this Python, as it is")
    asked = parser.parse_args()
    tests = asked.tests or list(SELECTION)
    if asked.python:
        ends = {path: ended(path, tests) for path in asked.python}
    else:
        cells = [cell for cell in CELLS if not asked.cell or cell.name in asked.cell]
        ends = {cell.name: tried(cell, tests) for cell in cells}
    print("\n".join(f"{name:45}{end}" for name, end in ends.items()))
    sys.exit(any(end.startswith("FAILED") for end in ends.values()))


if __name__ == "__main__":
    main()
