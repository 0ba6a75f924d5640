"""The package keeps its shape: imports go down only, files and functions stay short, nothing unsafe is called.

`LAYERS` is the one place where a module's layer is written down. Imports under `if TYPE_CHECKING:` do not count.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2] / "src" / "trimformer"
PLUGIN_FOLDERS = ("architectures", "methods", "tasks", "costs", "commands")

LAYERS = (
    ("errors",),
    ("interfaces", "sites"),
    (
        "plugins",
        "ranks",
        "launch",
        "cache",
        "options",
        "method_options",
        "batching",
        "labels",
        "losses",
        "metrics",
        "objectives",
        "data",
        "hub",
        "folders",
    ),
    ("manifest", "offload", "placement", "resources", "upload"),
    ("report",),
    (
        "clustering",
        "correction",
        "curves",
        "inputs",
        "structure",
        "masking",
        "scoring",
        "search",
        "splits",
        "reconstruction",
        "modeling_trimformer",
        "surgery",
    ),
    (
        "calibration",
        "boundary",
        "checkpoint",
        "evaluation",
        "latency",
        "onnx",
        "runtimes",
    ),
    ("job",),
    ("baseline", "moments", "rescaling", "uniform"),
    ("architectures", "methods", "tasks", "costs"),
    ("fingerprint", "footprint"),
    ("pipeline",),
    ("project",),
    ("demo", "export", "guard", "frontier", "tables"),
    ("steps", "training", "compare"),
    ("commands",),
    ("cli",),
    ("__init__", "__main__"),
)
"""Lowest first. A module imports from lower layers and its own; a plug-in from lower layers only."""

MAX_FILE_LINES = 300
MAX_BODY_LINES = 40
FORBIDDEN_IMPORTS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "torch.load"}
FORBIDDEN_CALLS = {"eval", "exec"}

FILES = sorted(ROOT.rglob("*.py"))


def module_of(path: Path) -> str:
    """`methods/kprune.py` -> `methods.kprune`, `methods/__init__.py` -> `methods`, the package itself -> `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path): path for path in FILES}


def layer_of(module: str) -> int:
    """Index into `LAYERS`."""
    top = module.split(".", maxsplit=1)[0]
    for index, layer in enumerate(LAYERS):
        if top in layer:
            return index
    pytest.fail(
        f"trimformer.{module} is in no layer: add {top!r} to LAYERS in {Path(__file__).name}, as low as it can be"
    )


def is_plugin(module: str) -> bool:
    """Whether the module is a file in a plug-in folder, or such a folder."""
    return module.split(".", maxsplit=1)[0] in PLUGIN_FOLDERS


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node`, without the bodies of `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in child.orelse:
                yield statement
                yield from runtime_nodes(statement)
        else:
            yield child
            yield from runtime_nodes(child)


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything that is imported at run time: `from a import b` gives `a.b`."""
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def imported_modules(tree: ast.AST) -> set[str]:
    """The modules of this package that are imported at run time, `__init__` for the package itself."""
    found = set()
    for name in imported_names(tree):
        package, *parts = name.split(".")
        if package != "trimformer":
            continue
        while parts and ".".join(parts) not in MODULES:
            parts.pop()
        found.add(".".join(parts) or "__init__")
    return found


def parse(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"), filename=str(MODULES[module]))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, its docstring not counted."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return statements[-1].end_lineno - statements[0].lineno + 1 if statements else 0


every_module = pytest.mark.parametrize("module", MODULES)


def test_package_is_found() -> None:
    assert "interfaces" in MODULES, f"no package in {ROOT}"


@every_module
def test_module_is_in_a_layer(module: str) -> None:
    assert layer_of(module) >= 0


@every_module
def test_imports_go_down_only(module: str) -> None:
    for imported in imported_modules(parse(module)) - {module}:
        assert layer_of(imported) <= layer_of(module), (
            f"trimformer.{module} imports trimformer.{imported}, which is in a higher layer: imports go down only"
        )


@every_module
def test_plugins_do_not_know_each_other(module: str) -> None:
    if not is_plugin(module):
        return
    for imported in imported_modules(parse(module)) - {module}:
        assert not is_plugin(imported), (
            f"plug-in trimformer.{module} imports plug-in trimformer.{imported}: move what they share to a module"
            ' below, or use trimformer.plugins.load("folder", "name")'
        )


@every_module
def test_imports_are_absolute_and_safe(module: str) -> None:
    for name in imported_names(parse(module)):
        assert not name.startswith("."), f"trimformer.{module} has the relative import {name}: write trimformer.…"
        forbidden = {name, name.split(".")[0]} & FORBIDDEN_IMPORTS
        assert not forbidden, f"trimformer.{module} imports {name}: files that run code when they are read are not used"


@every_module
def test_nothing_unsafe_is_called(module: str) -> None:
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "torch.load", f"trimformer.{module}:{node.lineno} uses torch.load"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS, f"trimformer.{module}:{node.lineno} calls {node.func.id}()"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"trimformer.{module}:{node.lineno} has a bare except: name the error"


@every_module
def test_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(parse(module)), f"trimformer.{module} has no docstring"


@every_module
def test_files_are_short(module: str) -> None:
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"trimformer.{module} has {lines} lines, more than {MAX_FILE_LINES}"


@every_module
def test_functions_are_short(module: str) -> None:
    functions = (n for n in ast.walk(parse(module)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    too_long = {f"{f.name}, line {f.lineno}": body_lines(f) for f in functions if body_lines(f) > MAX_BODY_LINES}
    assert not too_long, f"trimformer.{module}: function bodies of more than {MAX_BODY_LINES} lines: {too_long}"
