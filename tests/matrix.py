"""Run tests on the oldest and the newest versions that are supported, each in an environment of its own.

`python tests/matrix.py` makes the environments in `.venv-matrix` and runs a selection through every room; give paths of
tests to run others. `--cell NAME` runs one cell. A Python that is not installed is said and skipped; so is an
environment that cannot be had. Deprecation warnings of our own code fail, as in every run of the tests.

A cell that fixes no PyTorch has that of `constraints.txt`: what pip takes by itself may be a build of several GB.
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
    packages: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return "-".join([f"py{self.python}", *(each.replace("==", "") for each in self.packages)])

    @property
    def installed(self) -> list[str]:
        """What pip is to install beside the package, PyTorch with its version in any case."""
        has_torch = any(each.startswith("torch==") for each in self.packages)
        return [*self.packages, *([] if has_torch else [KNOWN_TORCH])]


KNOWN_TORCH = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
OLDEST, NEWEST = ("transformers==5.0.0", "torch==2.6.0"), ()
CELLS = (
    Cell("3.10", OLDEST),
    Cell("3.11", ("transformers==5.0.0",)),
    Cell("3.11", NEWEST),
    Cell("3.12", NEWEST),
    Cell("3.13", NEWEST),
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
            [*pip, "--group", "test", "-e", ".[onnx]", *cell.installed],
        ):
            made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
            if made.returncode:
                last = (made.stderr.strip().splitlines() or ["?"])[-1]
                return f"skipped, the environment cannot be had: {last}"
        (folder / "made").touch()
    print(f"{cell.name}: {' '.join(tests)}", flush=True)
    ended = subprocess.run(
        [str(own), "-m", "pytest", "-q", *FOREIGN, *tests],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    return "passed" if ended.returncode == 0 else f"FAILED, exit code {ended.returncode}"


def main() -> None:
    """Run all cells, or those that are named, and print how each ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", help="tests to run in place of the selection")
    parser.add_argument("--cell", action="append", choices=[cell.name for cell in CELLS])
    asked = parser.parse_args()
    cells = [cell for cell in CELLS if not asked.cell or cell.name in asked.cell]
    ends = {cell.name: tried(cell, asked.tests or list(SELECTION)) for cell in cells}
    print("\n".join(f"{name:45}{end}" for name, end in ends.items()))
    sys.exit(any(end.startswith("FAILED") for end in ends.values()))


if __name__ == "__main__":
    main()
