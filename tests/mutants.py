"""Mutation testing: change one thing at a time in what decides and repairs, and see whether tests notice.

`python tests/mutants.py` goes through all files of `TESTED`, `python tests/mutants.py search` through one.
`--seconds 600` tries those of a file that the time is enough for, drawn by `--seed`. A mutant that survives is printed
with its line; those of `explained_mutants.py` compute the same, for the reason given. Exits with 1 if another survives.

A run without a change notes which tests go through which lines. Of a mutant, those that reach its line are run, the
fastest first, until one fails. Every run is a fork of one process that has imported what the tests need of others, so
tests that start a Python of their own see the file unchanged.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import importlib
import json
import os
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from time import monotonic, process_time
from types import CodeType, FrameType
from typing import Any

import pytest

from explained_mutants import EQUIVALENT

ROOT = Path(__file__).resolve().parent.parent
PROPERTIES = "tests/unit/test_properties.py"
TESTED = {
    "pruning/choose/scoring": ("tests/unit/test_scoring.py", "tests/unit/test_kcm.py", "tests/truth/test_by_hand.py"),
    "pruning/choose/curves": ("tests/unit/test_curves.py", PROPERTIES),
    "pruning/choose/search": ("tests/unit/test_search.py", "tests/unit/test_sizes.py", PROPERTIES),
    "pruning/refit/least_squares": ("tests/unit/test_reconstruction.py", PROPERTIES),
    "model/surgery": (
        "tests/unit/test_cut_by_hand.py",
        "tests/unit/test_uniform.py::test_every_layer_keeps_as_many_units",
        "tests/unit/test_uniform.py::test_fewer_heads_are_kept_where_the_class_can_have_them",
        "tests/unit/test_probe.py::TestQuantized::test_a_dequantized_model_is_as_good_as_any",
        "tests/truth/test_query_heads.py",
        *(
            f"tests/contract/test_every_architecture.py::test_{name}"
            for name in (
                "cut_model_computes_what_the_masked_one_does",
                "two_cuts_are_one_cut_of_both",
                "emptied_sites_stay_empty_through_further_cuts",
                "masks_that_do_not_fit_are_refused",
            )
        ),
        *(
            f"tests/contract/test_every_decoder.py::test_{name}"
            for name in (
                "tokens_come_one_by_one_as_at_once",
                "a_refitted_consumer_gets_a_bias_that_is_saved",
                "a_cache_made_for_even_heads_is_refused",
                "a_sublayer_without_units_adds_its_bias_alone",
            )
        ),
        *("-k", "not ([bert- or [gpt2- or [llama-) or encoder]"),  # the task does not matter here
    ),
}
"""Files, and the tests that are to notice a change in them."""
OTHERS = {
    "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "scipy", "datasets", "pandas",
    "pyarrow", "hypothesis", "anyio", "rich", "typer",
}  # fmt: skip
"""Packages that are imported once for all mutants."""
CPU_SECONDS = 30
"""Beside ten times what the tests take without a change; a mutant that needs longer does not end."""
NOT_RUN = 70
"""Exit code of a fork that raises."""
OTHER = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.MatMult: ast.Add,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of a file: `old` is a node of its tree, `lines` those of its statement, none where it is imported."""

    name: str
    old: ast.AST
    new: ast.AST
    lines: range | None


@dataclass
class Notes:
    """What a run without a change notes of tests by their ids: seconds, and lines of the file that they go through."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, list[int]] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)


def mutants(tree: ast.Module) -> list[Mutant]:
    """List the changes: operators, comparisons, numbers, truths, negations, conditions, and statements left out."""
    found, names = list[Mutant](), Counter[str]()
    for node, within, lines, function in _nodes(tree, None, ""):
        for what, new in _changes(node):
            shown = ast.unparse(within if isinstance(node, ast.Constant) else node).splitlines()[0]
            name = f"{function or 'module'}: {what} in {shown}"
            names[name] += 1
            found.append(Mutant(name + f" ({names[name]})" * (names[name] > 1), node, new, lines))
    return found


def _nodes(node: ast.AST, lines: range | None, function: str) -> Iterator[tuple[ast.AST, ast.AST, range | None, str]]:
    """Walk through a tree but for annotations: a node, what it is in, its statement's lines, its function's name."""
    for name, value in ast.iter_fields(node):
        inner = node.name if isinstance(node, ast.FunctionDef) else function
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or name in {"annotation", "returns"}:
                continue
            own = lines
            if isinstance(child, ast.stmt) and inner:
                body = getattr(child, "body", None)
                own = range(child.lineno, body[0].lineno if body else (child.end_lineno or child.lineno) + 1)
            yield child, node, own, inner
            yield from _nodes(child, own, inner)


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in OTHER:
        new = OTHER[type(node.op)]
        yield f"{type(node.op).__name__} -> {new.__name__}", _with(node, op=new())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
        new = OTHER[type(node.ops[0])]
        yield f"{type(node.ops[0]).__name__} -> {new.__name__}", _with(node, ops=[new(), *node.ops[1:]])
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} turned", _with(node, value=not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield f"{node.value} + 1", _with(node, value=node.value + 1)
    if isinstance(node, ast.UnaryOp):
        yield f"{type(node.op).__name__} left out", node.operand
    if isinstance(node, (ast.If, ast.IfExp, ast.While)) and not isinstance(node.test, (ast.Compare, ast.UnaryOp)):
        yield "condition turned", _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, (ast.Continue, ast.Break)) or (isinstance(node, ast.Return) and node.value is None):
        yield "left out", ast.Pass()
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "left out", ast.Pass()


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


class Swap(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """Give the new node for the old one, and go into all others."""
        return ast.copy_location(self.new, node) if node is self.old else self.generic_visit(node)


class Changed(SourceFileLoader):
    """Imports one file from code that is given, and finds it before Python does."""

    def __init__(self, file: str, code: CodeType) -> None:
        super().__init__("trimformer." + file.replace("/", "."), str(place(file)))
        self.code = code

    def get_code(self, fullname: str) -> CodeType:
        """Give the code."""
        return self.code

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find the one file, nothing else."""
        return spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None


class Noting:
    """Notes of every test how long it takes and which lines of a file it goes through."""

    def __init__(self, file: str, notes: Notes) -> None:
        self.file, self.notes = str(place(file)), notes

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Trace a test with what it sets up."""
        seen, start = set[int](), process_time()

        def in_file(frame: FrameType, *_: object) -> Callable[..., Any]:
            seen.add(frame.f_lineno)
            return in_file

        sys.settrace(lambda frame, *_: in_file if frame.f_code.co_filename == self.file else None)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.notes.seconds[item.nodeid], self.notes.lines[item.nodeid] = process_time() - start, sorted(seen)


class Chosen:
    """Runs some of the tests, in the order given."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = {name: number for number, name in enumerate(ids)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out and sort."""
        items[:] = sorted((item for item in items if item.nodeid in self.ids), key=lambda item: self.ids[item.nodeid])


def place(file: str) -> Path:
    """Give the path of a file of the package."""
    return ROOT / "src" / "trimformer" / f"{file}.py"


def forked(work: Callable[[], int], cpu_seconds: float) -> int:
    """Run something in a fork, silently, and give its exit code; negative where it was killed."""
    child = os.fork()
    if not child:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        resource.setrlimit(resource.RLIMIT_CPU, (round(cpu_seconds), round(cpu_seconds)))
        code = NOT_RUN
        try:
            code = int(work())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def pytest_with(file: str, tree: ast.Module, tests: list[str], plugin: object) -> int:
    """Run tests with a tree in the place of a file's own."""
    sys.meta_path.insert(0, Changed(file, compile(ast.fix_missing_locations(tree), str(place(file)), "exec")))  # type: ignore[arg-type]  # it finds
    options = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of OTHERS
    return pytest.main([*options, *tests], plugins=[plugin])


def noted(file: str, tree: ast.Module) -> Notes:
    """Run the tests of a file without a change, and import what they import of other packages.

    Raises:
        SystemExit: they do not pass.
    """
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "notes.json"

        def work() -> int:
            notes = Notes()
            code = pytest_with(file, tree, list(TESTED[file]), Noting(file, notes))
            notes.modules = [name for name in sys.modules if name.partition(".")[0] in OTHERS]
            written.write_text(json.dumps(vars(notes)))
            return code

        if forked(work, 3600):
            raise SystemExit(f"{file}: its tests do not pass without a change")
        notes = Notes(**json.loads(written.read_text()))
    for name in notes.modules:
        with suppress(ImportError):  # of a module that its package makes while it is imported
            importlib.import_module(name)
    gc.freeze()  # or every fork would look through all of that for garbage, and copy it
    return notes


def survives(file: str, tree: ast.Module, mutant: Mutant, notes: Notes, most: int | None = None) -> bool:
    """Tell whether all tests that reach a mutant pass with it, or so many of the fastest."""
    reaching = [test for test in notes.seconds if mutant.lines is None or set(mutant.lines) & set(notes.lines[test])]
    reaching = sorted(reaching, key=notes.seconds.__getitem__)[:most]
    files = list(dict.fromkeys(test.partition("::")[0] for test in reaching))

    def work() -> int:
        return pytest_with(file, Swap(mutant.old, mutant.new).visit(tree), files, Chosen(reaching))

    if not reaching:
        return True
    code = forked(work, CPU_SECONDS + 10 * sum(notes.seconds[test] for test in reaching))
    if code in {pytest.ExitCode.NO_TESTS_COLLECTED, NOT_RUN}:
        raise SystemExit(f"{file}: no tests were run for {mutant.name}")
    return code == 0


def tried(file: str, seconds: float, seed: int) -> list[str]:
    """Try mutants of one file for so long, in the order that a seed draws, and give those that survive unexplained."""
    tree, explained = ast.parse(place(file).read_text()), EQUIVALENT.get(file, {})
    every = mutants(tree)
    gone = explained.keys() - {mutant.name for mutant in every}
    if gone:
        raise SystemExit(f"{file}: EQUIVALENT explains what is no mutant any more: {', '.join(sorted(gone))}")
    nothing = Mutant("no change", tree, tree, None)
    drawn = random.Random(seed).sample(every, len(every))  # noqa: S311  # mutants to try
    left, count, notes, ends = list[str](), 0, noted(file, tree), monotonic() + seconds
    if not survives(file, tree, nothing, notes, most=9):
        raise SystemExit(f"{file}: its tests do not pass once more in a fork")
    while count < len(drawn) and monotonic() < ends:
        mutant, count = drawn[count], count + 1
        if survives(file, tree, mutant, notes):
            left.append(mutant.name)
            if mutant.name not in explained:
                print(f"  line {getattr(mutant.old, 'lineno', '?')}, {mutant.name}", flush=True)
    unexplained = [name for name in left if name not in explained]
    told = f"{len(left)} survive, {len(unexplained)} of them unexplained, above"
    print(f"{file}: {count} of {len(every)} mutants, {told}", flush=True)
    return unexplained


def main() -> None:
    """Go through the files that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of names of files")
    parser.add_argument("--seconds", type=float, default=1e6, help="the time box of a file")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    files = [file for file in TESTED if not asked.words or any(word in file for word in asked.words)]
    survivors = [tried(file, asked.seconds, asked.seed) for file in files]
    sys.exit(any(survivors))


if __name__ == "__main__":
    main()
