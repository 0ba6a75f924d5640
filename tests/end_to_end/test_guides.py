"""The guides of the docs do their job on real data, each from raw rows to a smaller model, as they are written."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from commands import execute
from docs_blocks import ROOT, blocks
from trimformer.data.demo import demo_model
from trimformer.errors import CheckpointError
from trimformer.model.manifest import read_manifest

SHARED = ROOT.parent / "shared"
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
LEAST = {
    "answers": ("reader-small", 0.5),
    "classifier": ("topics-small", 0.9),
    "embeddings": ("search-small", 0.9),
    "entities": ("tagger-small", 0.9),
    "language-model": ("writer-small", 0.5),
    "reranker": ("reranker-small", 0.9),
}
"""By guide its last checkpoint, and the share of the dense model's metric that it keeps at least."""


def test_every_guide_is_known() -> None:
    assert {guide.stem for guide in GUIDES} == set(LEAST)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # a guide trains and loads as its readers do
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_leads_to_a_smaller_model(guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (SHARED / "data").exists():
        pytest.skip(f"needs {SHARED / 'data'}")
    try:
        demo_model()
    except CheckpointError as error:
        pytest.skip(str(error))
    (tmp_path / "shared").symlink_to(SHARED)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    names: dict[str, Any] = {}
    for block in blocks(guide):
        if block.language == "python":
            exec(compile(block.text, guide.name, "exec"), names)  # noqa: S102  # our own page
        for words in block.commands:
            assert execute(*words) == 0, f"{guide.name}: trimformer {shlex.join(words)} does not work"
    folder, least = LEAST[guide.stem]
    metrics = read_manifest(folder)["metrics"]
    name, dense = next(iter(metrics["dense"].items()))
    before, after = dense["value"], metrics["pruned"][name]["value"]
    assert (before / after if name == "perplexity" else after / before) >= least
