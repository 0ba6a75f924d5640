"""The notebook of the docs runs, cell by cell, and what it shows can be shown."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def shown_by(cell: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, and give the value of its last line."""
    *first, last = ast.parse(cell).body
    if not isinstance(last, ast.Expr):
        first.append(last)
    exec(compile(ast.Module(first, []), NOTEBOOK.name, "exec"), names)  # noqa: S102  # our own notebook
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)  # noqa: S307  # as above


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = [shown_by("".join(cell["source"]), names) for cell in CELLS]
    _, result, judged, sizes, page, answer = shown
    assert "<svg" in result._repr_html_()
    assert "accuracy" in judged._repr_html_()
    assert judged.before["accuracy"].value > 0.8, "the stand-in has learned nothing: its numbers would say nothing"
    assert judged.after["accuracy"].value > 0.7
    assert [str(each).startswith("<TaskResult: ") for each in sizes] == [True, True]
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert answer[0]["label"] == "LABEL_1"


def test_the_notebook_is_stored_without_outputs() -> None:
    assert not any(cell["outputs"] or cell["execution_count"] for cell in CELLS)
