"""The docs are true: links lead somewhere, commands and options exist, and everything that exists is described."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from trimformer import plugins
from trimformer.cli import app

ROOT = Path(__file__).parents[2]
METHOD_PAGES = ROOT / "docs" / "methods"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OPTION_ROW = re.compile(r"^\| `(\w+)` \| (\S+) \|", re.MULTILINE)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app.app)
    return group.commands


@cache
def own_options() -> set[str]:
    """Options of the program itself."""
    group: Any = typer.main.get_command(app.app)
    return {option for parameter in group.params for option in parameter.opts} | {"--help"}


def shown_commands(text: str) -> Iterator[list[str]]:
    """The words of every `trimformer …` line in a code block, and of every one inline."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`([^`\n]+)`", text)
    for line in [*lines, *inline]:
        _, started, rest = f" {line}".partition(" -m trimformer ")
        if started or line.startswith("trimformer "):
            yield shlex.split(rest or line.removeprefix("trimformer "), comments=True)


def test_there_are_pages() -> None:
    assert {"README.md", "index.md", "methods.md"} <= {page.name for page in PAGES}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", read(page))]
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to {missing}"


@every_page
def test_commands_and_options_exist(page: Path) -> None:
    for words in shown_commands(read(page)):
        if words[0] in ("COMMAND", *own_options()):
            continue
        assert words[0] in commands(), f"{page.name}: trimformer has no command {words[0]!r}"
        known = {option for parameter in commands()[words[0]].params for option in parameter.opts} | {"--help"}
        unknown = {word for word in words if word.startswith("--")} - known
        assert not unknown, f"{page.name}: trimformer {words[0]} has no {', '.join(unknown)}"


@pytest.mark.parametrize("command", commands())
def test_every_option_is_described(command: str) -> None:
    section = read(ROOT / "docs" / "command-line.md").partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    options = {option for parameter in commands()[command].params for option in parameter.opts if "--" in option}
    missing = {
        option for option in options - {"--help"} if f"`{option}`" not in section and f" {option}" not in section
    }
    assert not missing, f"docs/command-line.md, section {command}, says nothing of {', '.join(sorted(missing))}"


@pytest.mark.parametrize("folder", ["methods", "recipes", "tasks", "architectures", "costs"])
def test_every_plugin_is_described(folder: Any) -> None:
    docs = "\n".join(read(page) for page in PAGES if page.is_relative_to(ROOT / "docs")).lower()
    missing = [name for name in plugins.names(folder) if not re.search(rf"\b{name}\b", docs)]
    assert not missing, f"docs/ says nothing of {folder}: {', '.join(missing)}"


FOLDERS: dict[str, Any] = {
    **dict.fromkeys(plugins.names("methods"), "methods"),
    **dict.fromkeys(plugins.names("recipes"), "recipes"),
}
"""Plug-in folders of all that has a page."""


@pytest.mark.parametrize("method", FOLDERS)
def test_options_of_methods_are_described_with_their_defaults(method: str) -> None:
    page = METHOD_PAGES / f"{method}.md"
    assert page.is_file(), f"method {method} has no page: write docs/methods/{method}.md, as its neighbours are"
    shown = dict(OPTION_ROW.findall(read(page)))
    assert shown == {field.name: str(field.default).lower() for field in fields(plugins.load(FOLDERS[method], method))}


def test_the_overview_links_every_page_of_a_method() -> None:
    linked = set(re.findall(r"\]\(methods/(\w+)\.md\)", read(ROOT / "docs" / "methods.md")))
    assert linked == {page.stem for page in METHOD_PAGES.glob("*.md")} == set(FOLDERS)


@every_page
def test_lines_are_short(page: Path) -> None:
    too_long = [number for number, line in enumerate(read(page).splitlines(), start=1) if len(line) > 140]
    tables = {number for number, line in enumerate(read(page).splitlines(), start=1) if line.startswith("|")}
    assert not set(too_long) - tables, f"{page.name}: lines {too_long} have more than 140 characters"


def test_the_table_of_what_was_tried_has_every_type() -> None:
    """`python tests/support_table.py` makes it; whoever adds an architecture runs that."""
    page = read(ROOT / "docs" / "architectures.md")
    tried = page.split("<!-- made by tests/support_table.py -->")[1].split("<!-- end of what is made -->")[0]
    rows = re.findall(r"^\| `([^`]+)`(.*)\|$", tried, re.MULTILINE)[1:]
    assert {name for name, _ in rows} == set(plugins.names("architectures"))
    assert all(cells.count("| yes ") >= 3 for _, cells in rows), "what is not equal or does not load is no support"
