"""The package keeps its shape: imports go down only, files and functions stay short, nothing unsafe is called.

The table "The plan" in docs/architecture.md is the one place where a room's floor is written down. All imports count:
those inside functions and under `if TYPE_CHECKING:` too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOT = REPOSITORY / "src" / "trimformer"
PLAN = REPOSITORY / "docs" / "architecture.md"
PLUGIN_FOLDERS = ("architectures", "methods", "tasks", "costs", "commands")
MOST_FLOORS = 10
MOST_FILES_AT_THE_TOP = 6


def read_plan() -> list[set[str]]:
    """Floors of the plan, the lowest first: names of rooms, read from the table under `## The plan`."""
    section = PLAN.read_text(encoding="utf-8").split("## The plan\n", 1)[1].split("\n## ", 1)[0]
    lines = [line.split("|") for line in section.splitlines() if re.match(r"\| \d+ \|", line)]
    floors = {int(line[1]): {name.rstrip("/") for name in re.findall(r"`([^`]+)`", line[2])} for line in lines}
    assert sorted(floors) == list(range(1, len(floors) + 1)), "the floors of the plan are not numbered 1, 2, …"
    return [floors[number] for number in sorted(floors)]


FLOORS = read_plan()
GROUND = "the ground"
MAX_FILE_LINES = 350
MAX_BODY_LINES = 50
FORBIDDEN_IMPORTS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "torch.load"}
FORBIDDEN_CALLS = {"eval", "exec"}

FILES = sorted(ROOT.rglob("*.py"))


def module_of(path: Path) -> str:
    """`methods/kprune.py` -> `methods.kprune`, `methods/__init__.py` -> `methods`, the package itself -> `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """`pruning.refit.walk` -> `pruning`; the files of the lowest floor are one room."""
    room = module.split(".", maxsplit=1)[0]
    return GROUND if room in FLOORS[0] else room


def floor_of(module: str) -> int:
    """The number of a module's floor, the lowest is 1."""
    for number, rooms in enumerate(FLOORS, start=1):
        if room_of(module) in rooms | ({GROUND} if number == 1 else set()):
            return number
    pytest.fail(
        f"trimformer.{module} is in no room of {PLAN.name}: add {room_of(module)!r} to its table, as low as can be"
    )


def is_plugin(module: str) -> bool:
    """Whether the module is a file in a plug-in folder, or such a folder."""
    return module.split(".", maxsplit=1)[0] in PLUGIN_FOLDERS


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything that is imported: `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def imported_modules(tree: ast.AST) -> set[str]:
    """The modules of this package that are imported, `__init__` for the package itself."""
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


IMPORTS = {module: imported_modules(parse(module)) - {module} for module in MODULES}
every_module = pytest.mark.parametrize("module", MODULES)


def reachable(start: str) -> set[str]:
    """Modules that a module imports, directly or by way of others."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for module in IMPORTS[waiting.pop()] - seen:
            seen.add(module)
            waiting.append(module)
    return seen


def test_the_plan_is_of_this_house() -> None:
    planned = set().union({GROUND}, *FLOORS[1:])
    assert planned == {room_of(module) for module in MODULES}, "the plan and the package have other rooms"
    assert len(FLOORS) <= MOST_FLOORS


def test_few_files_stand_beside_the_folders() -> None:
    assert len(list(ROOT.glob("*.py"))) <= MOST_FILES_AT_THE_TOP


@every_module
def test_imports_go_down_only(module: str) -> None:
    for imported in IMPORTS[module]:
        if room_of(imported) != room_of(module):
            assert floor_of(imported) < floor_of(module), (
                f"trimformer.{module} imports trimformer.{imported}, whose room is not on a lower floor"
            )


@every_module
def test_modules_import_each_other_in_no_circle(module: str) -> None:
    assert module not in reachable(module), f"trimformer.{module} is in a circle of imports"


def test_architectures_see_sites_only() -> None:
    for module in MODULES:
        if room_of(module) == "architectures":
            assert IMPORTS[module] <= {"model.sites"}, f"trimformer.{module} needs model.sites only"


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
