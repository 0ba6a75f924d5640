"""The core names options as Python does; only the command line knows of `--flags`, and translates."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from trimformer.cli import app

ROOT = Path(__file__).parents[2] / "src" / "trimformer"
CORE = [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0] not in ("cli", "commands")]


def flags() -> set[str]:
    """Every option of every command."""
    group: Any = typer.main.get_command(app.app)
    found = {option for command in group.commands.values() for parameter in command.params for option in parameter.opts}
    return {option for option in found if option.startswith("--")} | {"--version"}


FLAGS = flags()


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string; what is put into an f-string is `{}`."""
    tree = ast.parse(source)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value


def flags_in(source: str) -> list[str]:
    """Flags of the command line that strings name, each with its line."""
    found = [
        (line, flag)
        for line, text in texts(source)
        for flag in re.findall(r"(?<![\w-])--(?:[a-z][a-z0-9-]*|\{\}(?!=))", text)
    ]
    return [f"line {line}: {flag}" for line, flag in found if flag in FLAGS | {"--{}"}]


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_string_of_the_core_names_a_flag(path: Path) -> None:
    assert not flags_in(path.read_text(encoding="utf-8")), "name the parameter in backticks: `calibration_tokens=6144`"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"use --set damping=0.3"', ["line 1: --set"]),
        ('x\nf"{a}, use (--{b} {c}), --{d}={e}"', ["line 2: --{}"]),
        ('f"var(--ink), {a} -- {b} --series-{c} x--set"', []),
    ],
)
def test_flags_are_seen(source: str, found: list[str]) -> None:
    assert flags_in(source) == found


def unquoted(source: str) -> list[str]:
    """Options with a value that messages for the user name without backticks, so that no command can translate them."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    raised = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "InvalidOption"]
    said = [re.sub(r"`[^`]*`", "", text) for call in raised for _, text in texts(ast.unparse(call))]
    return [found for text in said for found in re.findall(r"(?<![\w.(&?=-])[a-z]\w*=(?:\w+|\{\})", text)]


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_stand_in_backticks(path: Path) -> None:
    assert not unquoted(path.read_text(encoding="utf-8"))


def test_options_without_backticks_are_seen() -> None:
    assert unquoted('raise InvalidOption(f"stride={a} and tune=true, not `ridge={b}`")') == ["stride={}", "tune=true"]
