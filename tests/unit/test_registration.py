"""`import trimformer` is light, and lets transformers load pruned checkpoints whichever is imported first."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

import trimformer
from conftest import TinyBert
from trimformer import Budget, prune, save
from trimformer.model import registration

LOADS = """
import sys
from transformers import AutoModel, pipeline

folder = sys.argv[1]
model = AutoModel.from_pretrained(folder)
answered = pipeline("text-classification", model=folder)("the cat saw")
left = [finder for finder in sys.meta_path if type(finder).__module__.startswith("trimformer")]
print(model.num_parameters(), len(answered), left)
"""


def in_a_fresh_process(code: str, *arguments: object) -> str:
    """What Python prints last when it runs some code."""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pruned") / "small"


@pytest.mark.parametrize(
    "first",
    [
        "import trimformer",
        pytest.param("import transformers.modeling_utils, trimformer", marks=pytest.mark.slow),
        pytest.param("import transformers, trimformer", marks=pytest.mark.slow),
    ],
    ids=["trimformer first", "transformers first", "transformers first, nothing of it loaded"],
)
def test_a_pruned_checkpoint_loads(
    first: str, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    rows = ["the cat saw a dog"] * 40
    dense = tiny_bert()
    small = prune(
        dense, rows, budget=Budget(flops=0.5), tokenizer=tokenizer, method="magnitude", calibration_tokens=200
    ).model
    save(small, folder, tokenizer=tokenizer, overwrite=True)
    kept = small.bert.num_parameters()
    assert kept < dense.bert.num_parameters()
    assert in_a_fresh_process(first + LOADS, folder) == f"{kept} 1 []"


def test_importing_is_light_and_public_names_are_there() -> None:
    code = (
        "import sys, trimformer\n"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "print(sorted(heavy), set(trimformer.__all__) <= set(dir(trimformer)), trimformer.Budget(flops=0.4).flops)"
    )
    assert in_a_fresh_process(code) == "[] True 0.4"


def test_every_public_name_is_what_it_says() -> None:
    assert all(getattr(trimformer, name).__name__ == name for name in trimformer.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'prun'"):
        _ = trimformer.prun


@pytest.fixture
def finders(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Those that Python asks for modules, as they are before the test; afterwards they are so again."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    return [*sys.meta_path]


def test_where_transformers_is_loaded_nothing_waits(finders: list[object]) -> None:
    registration.register()
    assert sys.meta_path == finders


@pytest.mark.parametrize("works", [True, False])
def test_one_waits_until_the_awaited_module_is_loaded(
    works: bool, finders: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules of the test's own stand for transformers'; one that cannot be loaded is waited for further."""
    (tmp_path / "awaited_one.py").write_text("" if works else "raise ImportError")
    (tmp_path / "registers_itself.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registration, "AWAITED", "awaited_one")
    monkeypatch.setattr(registration, "REGISTERS_ITSELF", "registers_itself")
    registration.register()
    registration.register()
    assert len(sys.meta_path) == len(finders) + 1
    if works:
        assert import_module("awaited_one").__loader__ is not None
    else:
        with pytest.raises(ImportError):
            import_module("awaited_one")
    assert (sys.meta_path == finders) is works
    assert ("registers_itself" in sys.modules) is works
    for name in ("awaited_one", "registers_itself"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("finders")
def test_a_module_that_is_nowhere_is_missing_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "AWAITED", "a_module_that_is_nowhere")
    registration.register()
    with pytest.raises(ModuleNotFoundError, match="No module named 'a_module_that_is_nowhere'"):
        import_module("a_module_that_is_nowhere")
