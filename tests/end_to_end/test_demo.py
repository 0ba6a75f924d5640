"""The demo prunes the encoder that its package carries, on docstrings of Python's own library."""

from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from commands import Run, assert_mistake
from conftest import WORDS, TinyBert
from trimformer.data.demo import PACKAGE, docstring_pairs
from trimformer.model import checkpoint
from trimformer.model.manifest import read_manifest

BODY = "A body of a dozen words is long enough to be the second text of a pair."
MODULES = {
    "a.py": f'"""The first line has words.\n\n{BODY}\n"""\n',
    "b.py": f'"""The first line has words.\n\nAnother {BODY}\n"""\n',
    "c.py": f'def work():\n    """A function does its work.\n\n    {BODY} Indeed.\n    """\n',
    "d.py": '"""A line alone, no body."""\nclass Short:\n    """Of four words here.\n\n    Short body.\n    """\n',
    "e.py": f'"""Too short.\n\n{BODY} And more.\n"""\n',
    "f.py": f'class Last:\n    """It is read for evaluation?\n    {BODY} Without a free line.\n    """\n',
    "g/h.py": f'"""A module in a package.\n\n{BODY} The end.\n"""\n',
    "i.py": "this is no Python",
    "test/j.py": f'"""A test is left out.\n\n{BODY} A test.\n"""\n',
}
"""Modules of a library; the first and every fourth in order of their names are for evaluation."""


def library(folder: Path, modules: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put modules in the place of Python's own."""
    for name, text in modules.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(folder))


def test_pairs_are_summaries_and_bodies_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, MODULES, monkeypatch)
    (tmp_path / "k.py").write_bytes(b'"""\xff is not UTF-8."""')
    calibration, evaluation = docstring_pairs(lambda modules, _: modules)
    assert evaluation.to_list() == [{"first": "The first line has words.", "second": BODY}]
    assert calibration.to_list() == [
        {"first": "A function does its work.", "second": f"{BODY} Indeed."},
        {"first": "A module in a package.", "second": f"{BODY} The end."},
    ]


def test_the_demo_leaves_a_smaller_encoder(
    run: Run, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / PACKAGE
    checkpoint.write(tiny_bert(None), package / "model", tokenizer=tokenizer)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(package.parent)
    words = WORDS.split()
    texts = {
        f"{letter}.py": f'"""The {letter} of {words[place]} is.\n\n{letter} {words[-place]} {BODY}\n"""\n'
        for place, letter in enumerate("abcdefghijklmnopqrst")
    }
    library(tmp_path / "library", texts, monkeypatch)
    out, page = tmp_path / "out", tmp_path / "page.html"
    options = ["--flops", 0.6, "--method", "magnitude", "--calibration-tokens", 200, "--out", out, "--report", page]
    done = run("demo", *options, "--json")
    assert done.code == 0, done.err
    facts = read_manifest(out)
    assert json.loads(done.out)["budget"] == facts["budget"]
    assert 0.4 < facts["budget"]["reached"] <= 0.6
    assert (facts["source"], facts["data"]) == ("all-MiniLM-L6-v2", "library docstrings")
    assert "all-MiniLM-L6-v2" in page.read_text()


def test_without_its_model_the_demo_says_where_to_get_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("demo", "--help")  # what is imported late is imported
    monkeypatch.setattr(sys, "path", [])
    assert_mistake(run("demo", "--out", tmp_path / "out"), "pip install 'trimformer[demo]'")
