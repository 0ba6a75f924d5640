"""The package keeps its shape: imports go down only, files and functions stay short, nothing unsafe is called.

The table "The plan" in docs/architecture.md is the one place where a room's floor is written down. All imports count:
those inside functions and under `if TYPE_CHECKING:` too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOT = REPOSITORY / "src" / "trimformer"
PLAN = REPOSITORY / "docs" / "architecture.md"
SETTINGS = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
PLUGIN_FOLDERS = ("architectures", "methods", "recipes", "tasks", "costs", "commands")
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
LONGER = {"model.modeling_trimformer": 500}
"""Files that may be longer: all that loads a checkpoint, because every further file has to go into every checkpoint."""
MAX_BODY_LINES = 50
FORBIDDEN_IMPORTS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "torch.load"}
COPIED = ("model.modeling_trimformer", "model.trimformer_checks")
"""The loader, which finds the other files of a checkpoint beside it, wherever they are."""
FORBIDDEN_CALLS = {"eval", "exec"}

FILES = sorted(ROOT.rglob("*.py"))


def module_of(path: Path) -> str:
    """`methods/kprune.py` -> `methods.kprune`, `methods/__init__.py` -> `methods`, the package itself -> `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path): path for path in FILES}
TEXTS = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}
OLDEST_PYTHON = tuple(map(int, re.findall(r'requires-python = ">=(\d+)\.(\d+)"', SETTINGS)[0]))
TREES = {module: ast.parse(text, module, feature_version=OLDEST_PYTHON) for module, text in TEXTS.items()}
"""Syntax trees, as the oldest Python reads them that the package is for."""


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


def imported_modules(module: str, tree: ast.AST) -> set[str]:
    """The modules of this package that a module imports, `__init__` for the package itself."""
    found = set()
    beside = ".".join(["trimformer", *module.split(".")[:-1], ""])
    for name in (re.sub(r"^\.", beside, name) for name in imported_names(tree)):
        package, *parts = name.split(".")
        if package != "trimformer":
            continue
        while parts and ".".join(parts) not in MODULES:
            parts.pop()
        found.add(".".join(parts) or "__init__")
    return found


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, its docstring not counted."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return statements[-1].end_lineno - statements[0].lineno + 1 if statements else 0


IMPORTS = {module: imported_modules(module, tree) - {module} for module, tree in TREES.items()}


def reachable(start: str) -> set[str]:
    """Modules that a module imports, directly or by way of others."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for module in IMPORTS[waiting.pop()] - seen:
            seen.add(module)
            waiting.append(module)
    return seen


def refuse(offenders: Iterable[str], rule: str) -> None:
    """Fail where anything breaks a rule, with all that does."""
    found = sorted(offenders)
    assert not found, "\n".join([f"{rule}:", *found])


def test_the_plan_is_of_this_house() -> None:
    planned = set().union({GROUND}, *FLOORS[1:])
    assert planned == {room_of(module) for module in MODULES}, "the plan and the package have other rooms"
    assert len(FLOORS) <= MOST_FLOORS


def test_every_file_of_a_room_is_described() -> None:
    """In the row of its room; plug-ins have pages and docstrings of their own."""
    section = PLAN.read_text(encoding="utf-8").split("## The rooms, file by file\n", 1)[1].split("\n## ", 1)[0]
    rows = dict(re.findall(r"^\| `?([a-z/ ]+?)/?`? \| (.*) \|$", section, re.MULTILINE))
    missing = []
    for module, path in MODULES.items():
        *folders, name = module.split(".")
        room = "/".join(folders) or "the ground"
        row, called = (rows[room], name) if room in rows else (rows.get(folders[0], ""), "/".join([*folders[1:], name]))
        is_room = path.name == "__init__.py" or module == "__main__"
        if not is_room and not is_plugin(module) and f"`{called}`" not in row:
            missing.append(module)
    assert not missing, f"{PLAN.name} does not say what these are for: {missing}"


def test_few_files_stand_beside_the_folders() -> None:
    assert len(list(ROOT.glob("*.py"))) <= MOST_FILES_AT_THE_TOP


def test_imports_go_down_only() -> None:
    refuse(
        (
            f"trimformer.{module} imports trimformer.{imported}"
            for module in MODULES
            for imported in IMPORTS[module]
            if room_of(imported) != room_of(module) and floor_of(imported) >= floor_of(module)
        ),
        "the room of what is imported is not on a lower floor",
    )


def test_modules_import_each_other_in_no_circle() -> None:
    refuse((module for module in MODULES if module in reachable(module)), "these are in a circle of imports")


DESCRIBING = {"model.description", "model.sites", "model.query_heads", "errors"}
"""Modules that architectures may import."""


def test_architectures_see_sites_and_errors_only() -> None:
    refuse(
        (
            f"{module}: {', '.join(IMPORTS[module] - DESCRIBING)}"
            for module in MODULES
            if room_of(module) == "architectures" and not IMPORTS[module] <= DESCRIBING
        ),
        "an architecture needs model.description, model.sites, model.query_heads for a variant, errors to refuse one",
    )


def test_plugins_do_not_know_each_other() -> None:
    refuse(
        (
            f"trimformer.{module} imports trimformer.{imported}"
            for module in filter(is_plugin, MODULES)
            for imported in filter(is_plugin, IMPORTS[module])
        ),
        'a plug-in imports another: move what they share to a module below, or use plugins.load("folder", "name")',
    )


def test_imports_are_absolute_and_safe() -> None:
    names = [(module, name) for module, tree in TREES.items() for name in imported_names(tree)]
    relative = (f"{module}: {name}" for module, name in names if name.startswith(".") and module not in COPIED)
    refuse(relative, "write trimformer.…, not a dot")
    refuse(
        (f"{module}: {name}" for module, name in names if {name, name.split(".")[0]} & FORBIDDEN_IMPORTS),
        "files that run code when they are read are not used",
    )


def unsafe(node: ast.AST) -> str | None:
    """What is wrong with a part of a syntax tree, None if nothing."""
    if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
        return "uses torch.load"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
        return f"calls {node.func.id}()"
    if isinstance(node, ast.ExceptHandler) and node.type is None:
        return "has a bare except: name the error"
    return None


def test_nothing_unsafe_is_called() -> None:
    found = ((module, node, unsafe(node)) for module, tree in TREES.items() for node in ast.walk(tree))
    refuse((f"{module}:{node.lineno} {what}" for module, node, what in found if what), "this is not safe")


def test_modules_say_what_they_are() -> None:
    refuse((module for module, tree in TREES.items() if not ast.get_docstring(tree)), "these have no docstring")


def test_files_are_short() -> None:
    lines = {module: len(text.splitlines()) for module, text in TEXTS.items()}
    too_long = (f"{module}: {count}" for module, count in lines.items() if count > LONGER.get(module, MAX_FILE_LINES))
    refuse(too_long, f"files of more than {MAX_FILE_LINES} lines")


def test_functions_are_short() -> None:
    functions = (
        (module, node)
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    too_long = (f"{module}.{f.name}: {body_lines(f)}" for module, f in functions if body_lines(f) > MAX_BODY_LINES)
    refuse(too_long, f"function bodies of more than {MAX_BODY_LINES} lines")
