"""The examples in docstrings are right: each is run, but for those that would download a model."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import trimformer

DOWNLOADING = ("trimformer.pruning.once", "trimformer.pruning.pruner")
"""Modules whose examples begin with a model and its tokenizer."""


def test_examples_are_right() -> None:
    found = [info.name for info in pkgutil.walk_packages(trimformer.__path__, "trimformer.")]
    modules = [import_module(name) for name in found if name != "trimformer.__main__"]
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for module in [trimformer, *modules] for test in finder.find(module) if test.examples]
    skipped = {test.globs["__name__"] for test in tests if any(doctest.SKIP in each.options for each in test.examples)}
    assert skipped <= set(DOWNLOADING), f"only what downloads a model may be skipped: {skipped}"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for test in tests:
        runner.run(test, out=said.append)
    results = runner.summarize(verbose=False)
    assert results.attempted > len(DOWNLOADING)
    assert not results.failed, "".join(said)
