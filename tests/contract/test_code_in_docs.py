"""Python in the documentation imports what there is; a page that needs nothing but a model is run."""

from __future__ import annotations

import ast
import re
import runpy
from importlib import import_module
from pathlib import Path

import pytest

from tiny_models import tiny_model
from trimformer.model.structure import read_structure

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks_of(page: Path) -> list[str]:
    """The page's Python, block by block."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def imports(page: Path) -> list[tuple[str, str]]:
    """Module and name of everything that the page's Python blocks import from the package."""
    nodes = [
        node for block in blocks_of(page) for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)
    ]
    own = [node for node in nodes if (node.module or "").partition(".")[0] == "trimformer"]
    return [(str(node.module), alias.name) for node in own for alias in node.names]


def test_there_are_such_imports() -> None:
    assert sum(len(imports(page)) for page in PAGES) > 10


@pytest.mark.parametrize("page", [page for page in PAGES if imports(page)], ids=lambda page: page.name)
def test_what_a_page_imports_is_there(page: Path) -> None:
    for module, name in imports(page):
        found = import_module(module)
        assert hasattr(found, name) or import_module(f"{module}.{name}"), f"{page.name}: {module} has no {name}"


def test_the_page_on_surgery_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model("bert").save_pretrained(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "surgery.py").write_text("\n".join(blocks_of(ROOT / "docs" / "surgery.md")))
    names = runpy.run_path(str(tmp_path / "surgery.py"))
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "encoder.layer.0.attention 4 heads of 8 numbers each",
        "encoder.layer.0.ffn 24 neurons of 1 numbers each",
    ]
    assert [site.units for site in read_structure(names["small"])] == [2, 12, 2, 12]
    assert [site.units for site in read_structure(names["model"])] == [4, 24, 4, 24]
    assert said[-1] == str([2, 12, 2, 12])
