"""Python in the documentation imports what there is."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def imports(page: Path) -> list[tuple[str, str]]:
    """Module and name of everything that the page's Python blocks import from the package."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    own = [node for node in nodes if (node.module or "").partition(".")[0] == "trimformer"]
    return [(str(node.module), alias.name) for node in own for alias in node.names]


def test_there_are_such_imports() -> None:
    assert sum(len(imports(page)) for page in PAGES) > 10


@pytest.mark.parametrize("page", [page for page in PAGES if imports(page)], ids=lambda page: page.name)
def test_what_a_page_imports_is_there(page: Path) -> None:
    for module, name in imports(page):
        found = import_module(module)
        assert hasattr(found, name) or import_module(f"{module}.{name}"), f"{page.name}: {module} has no {name}"
