"""Mutation testing: change one operator or number at a time in what decides and repairs, and see whether tests notice.

`python tests/mutants.py` goes through all files of `TESTED`, `python tests/mutants.py search` through one.
`--seconds 600` tries those of a file that the time is enough for, drawn by `--seed`. A mutant that survives is printed
with its line; those of `EQUIVALENT` compute the same, for the reason given. Exits with 1 if another survives.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parent.parent
PROPERTIES = "tests/unit/test_properties.py"
TESTED = {
    "pruning/choose/scoring": ("tests/unit/test_scoring.py", "tests/unit/test_kcm.py", "tests/truth/test_by_hand.py"),
    "pruning/choose/curves": ("tests/unit/test_curves.py", PROPERTIES),
    "pruning/choose/search": ("tests/unit/test_search.py", "tests/unit/test_sizes.py", PROPERTIES),
    "pruning/refit/least_squares": ("tests/unit/test_reconstruction.py", PROPERTIES),
    "model/surgery": ("tests/unit/test_cut_by_hand.py", "tests/contract/test_every_architecture.py", PROPERTIES),
}
"""Files, and the tests that are to notice a change in them."""
EQUIVALENT = {
    (
        "pruning/refit/least_squares",
        "line 14, column 18: True turned in True",
    ): "nothing writes into a Refit: frozen or not is the same",
    (
        "pruning/choose/search",
        "line 41, column 56: True turned in True",
    ): "the sort of PyTorch on a CPU is stable without being asked, which nobody promises",
    (
        "pruning/choose/search",
        "line 46, column 48: 0.0 + 1 in 0.0",
    ): "after the last unit of a site nothing asks for the cost of another",
    ("pruning/choose/curves", "line 30, column 18: True turned in True"): "nothing writes into a RemovalCurve",
    ("pruning/choose/curves", "line 82, column 25: 0 + 1 in 0"): "the matrix is square",
    ("pruning/choose/curves", "line 140, column 39: 1.0 + 1 in 1.0"): "infinity is divided by it",
    ("pruning/choose/search", "line 48, column 95: True turned in True"): "there are as many parts as sites",
}
"""Survivors by file and change, with the reason why nobody can notice them."""
SECONDS = 300
OTHER = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.MatMult: ast.Add,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


def mutants(text: str) -> Iterator[tuple[str, str]]:
    """Give what is changed, and the text with the change: operators, comparisons, numbers, truths, negations."""
    tree = ast.parse(text)
    for number, node in enumerate(ast.walk(tree)):
        for what, change in _changes(node):
            changed = copy.deepcopy(tree)
            target = next(each for place, each in enumerate(ast.walk(changed)) if place == number)
            change(target)
            place_of = f"line {getattr(node, 'lineno', 0)}, column {getattr(node, 'col_offset', 0)}"
            yield f"{place_of}: {what} in {ast.unparse(node)[:70]}", ast.unparse(changed)


def _changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in OTHER:
        new = OTHER[type(node.op)]
        yield f"{type(node.op).__name__} -> {new.__name__}", lambda target: setattr(target, "op", new())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
        turned = OTHER[type(node.ops[0])]
        yield f"{type(node.ops[0]).__name__} -> {turned.__name__}", lambda target: target.ops.__setitem__(0, turned())
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} turned", lambda target: setattr(target, "value", not target.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield f"{node.value} + 1", lambda target: setattr(target, "value", target.value + 1)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield f"{type(node.op).__name__} left out", lambda target: setattr(target, "op", ast.UAdd())


def survives(folder: Path, file: str, text: str, tests: tuple[str, ...]) -> bool:
    """Tell whether all tests pass with a text in the place of a file's own."""
    place = folder / "trimformer" / f"{file}.py"
    place.write_text(text)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])},
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    finally:
        shutil.copyfile(ROOT / "src" / "trimformer" / f"{file}.py", place)
    return ended.returncode == 0


def tried(file: str, seconds: float, seed: int) -> list[str]:
    """Try mutants of one file for so long, in the order that a seed draws, and give those that survive."""
    text, tests = (ROOT / "src" / "trimformer" / f"{file}.py").read_text(), TESTED[file]
    every = list(mutants(text))
    drawn = random.Random(seed).sample(every, len(every))  # noqa: S311  # mutants to try
    left, count = list[str](), 0
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(ROOT / "src" / "trimformer", Path(scratch) / "trimformer")
        if not survives(Path(scratch), file, text, tests):
            raise SystemExit(f"{file}: its tests do not pass without a change")
        ends = monotonic() + seconds
        while count < len(drawn) and monotonic() < ends:
            what, changed = drawn[count]
            count += 1
            if survives(Path(scratch), file, changed, tests):
                left.append(what)
    unexplained = [what for what in left if (file, what) not in EQUIVALENT]
    print(f"{file}: {count} of {len(every)} mutants, {len(left)} survive, {len(unexplained)} of them unexplained")
    print("".join(f"  {what}\n" for what in unexplained), end="", flush=True)
    return unexplained


def main() -> None:
    """Go through the files that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of names of files")
    parser.add_argument("--seconds", type=float, default=1e6, help="the time box of a file")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    files = [file for file in TESTED if not asked.words or any(word in file for word in asked.words)]
    survivors = [tried(file, asked.seconds, asked.seed) for file in files]
    sys.exit(any(survivors))


if __name__ == "__main__":
    main()
