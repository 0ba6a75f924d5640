"""The wheel that users install: everything of the package is in it, nothing else, and it works on its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling import build

from example_facts import facts

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "trimformer"
SHIPPED = {".py", ".j2", ".typed"}

USE = """
import json, sys
import trimformer
from trimformer import plugins
from trimformer.cli import app
from trimformer.judging.manifest import Manifest
from trimformer.report.model_card import model_card
from trimformer.report.page import checkpoint_page
facts = json.load(sys.stdin)
assert callable(app.main)
print(json.dumps({
    "file": trimformer.__file__,
    "methods": plugins.names("methods"),
    "card": model_card(Manifest.from_json(facts)),
    "page": checkpoint_page(Manifest.from_json(facts)),
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, as pip would unpack it."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        wheel = folder / build.build_wheel(str(folder))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def about(installed: Path) -> Path:
    (found,) = installed.glob("trimformer-*.dist-info")
    return found


def test_it_holds_the_package_and_nothing_else(installed: Path) -> None:
    source = {path for path in files(PACKAGE) if "__pycache__" not in path}
    assert {Path(path).suffix for path in source} == SHIPPED
    assert {"report/templates/card.md.j2", "report/templates/style.css.j2", "py.typed"} <= source
    assert files(installed / "trimformer") == source
    assert {path.name for path in installed.iterdir()} == {"trimformer", about(installed).name}


def test_it_says_what_it_is(installed: Path) -> None:
    folder = about(installed)
    assert files(folder) == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert "trimformer = trimformer.cli.app:main" in (folder / "entry_points.txt").read_text()
    described = (folder / "METADATA").read_text(encoding="utf-8")
    assert "\nProvides-Extra: onnx\n" in described
    assert "\nRequires-Dist: transformers>=5\n" in described


def test_it_works_on_its_own(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", USE],
        input=json.dumps(facts().as_json()),
        env=os.environ | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["file"]).is_relative_to(installed)
    assert {"kprune", "surgeon"} <= set(found["methods"])
    assert found["card"].startswith("---\n")
    assert found["page"].lower().startswith("<!doctype html>")
