"""Every code block of the documentation runs, page by page, on tiny models; what cannot run says why in the page.

Python blocks of a page run in order in one namespace. `trimformer …` lines run through the command line, each with
calibration tokens as few as the tiny models need. Where a line makes a folder that is there, the old one goes first.
"""

from __future__ import annotations

import json
import shlex
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import trimformer
from commands import execute
from docs_blocks import HUB_NAMES, PAGES, TOKENS, Block, blocks, prepare, texts, written_by
from trimformer import plugins
from trimformer.cli import app

EXPORTED = ["export", "smaller", "--onnx", "--int8", "--out", "smaller-onnx"]
"""What makes the export that a page shows before it says how to make one."""
OF_DECODERS = {"large.md", "architectures.md"}
OF_LARGE = {"sizes.md"}
"""Pages that ask for so many heads, neurons and layers."""
ELSEWHERE = {"CONTRIBUTING.md"}
"""Pages whose blocks other tests run: test_contributing.py, and test_guides.py those of docs/guides."""
QUICK = {
    "architectures.md",
    "checkpoint.md",
    "surgery.md",
    "vocabulary.md",
    *(f"{name}.md" for name in plugins.names("methods")),
}
"""Pages that are run by default; the others train, export, or have many commands."""
REACHABLE = {"--latency": ["0.9", "0.8", "0.8"], "--size": ["40kB", "35kB"]}
"""What tiny models can be asked for in place of what real ones are."""
SHELL = ""
ALL = [(page, block) for page in PAGES for block in blocks(page)]
TO_RUN = [(page, block) for page, block in ALL if block.language in ("python", SHELL) and not block.reason]
RUN = sorted({page for page, _ in TO_RUN if page.name not in ELSEWHERE and page.parent.name != "guides"})


@cache
def known_commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app.app)
    return group.commands


def short(words: list[str]) -> list[str]:
    """The words of a command, with as few calibration tokens as a tiny model needs, and what it can be cut to."""
    for option, small in REACHABLE.items():
        if option in words:
            at = words.index(option) + 1
            words = [*words[:at], ",".join(small[: words[at].count(",") + 1]), *words[at + 1 :]]
    options = {option for parameter in known_commands()[words[0]].params for option in parameter.opts}
    if "--calibration-tokens" not in options:
        return words
    given = [words.index("--calibration-tokens")] if "--calibration-tokens" in words else []
    rest = [word for place, word in enumerate(words) if not any(place in (at, at + 1) for at in given)]
    return [*rest, "--calibration-tokens", str(TOKENS)]


class Reader:
    """Somebody who follows a page, in a folder of their own."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.names: dict[str, Any] = {}

    def have(self) -> None:
        """Have what every page takes as given."""
        model, tokenizer = trimformer.load_model("MODEL"), trimformer.load_tokenizer("MODEL")
        if self.page.name == "command-line.md":
            assert execute(*EXPORTED) == 0
        self.names |= {"model": model, "tokenizer": tokenizer, "texts": texts(900, seed=2), "MODEL": "MODEL"}

    def follow(self, block: Block) -> None:
        if block.language == "python":
            code = block.text
            for name in HUB_NAMES:
                code = code.replace(name, "MODEL")
            self.forget(written_by(code))
            exec(compile(code, f"{self.page.name}: {code.splitlines()[0]}", "exec"), self.names)  # noqa: S102  # ours
        for words in block.commands if block.language == SHELL else ():
            self.forget({words[words.index("--out") + 1]} if "--out" in words else set())
            assert execute(*short(words)) == 0, f"{self.page.name}: trimformer {shlex.join(words)} does not work"

    def forget(self, names: set[str]) -> None:
        for path in map(Path, names):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own compiler
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=() if page.name in QUICK else pytest.mark.slow) for page in RUN],
    ids=lambda p: p.name,
)
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, decoder=page.name in OF_DECODERS, large=page.name in OF_LARGE)
    monkeypatch.chdir(tmp_path)
    reader = Reader(page)
    reader.have()
    for block in blocks(page):
        if not block.reason:
            reader.follow(block)


def test_what_is_not_run_says_why() -> None:
    """Prints them all: `pytest -s`."""
    skipped = [(page, block) for page, block in ALL if block.reason]
    for page, block in skipped:
        print(f"{page.name}: {block.lines[0]!r} is not run: {block.reason}")  # noqa: T201  # to be read
    assert len(skipped) <= 15, "too much of the documentation is not run"
    assert len(TO_RUN) > 50


def test_all_that_a_shell_block_has_is_run() -> None:
    other = [
        f"{page.name}: {line}"
        for page, block in TO_RUN
        if block.language == SHELL
        for line in block.lines
        if not line.startswith("trimformer ")
    ]
    assert not other, "run what is not trimformer by hand, and say why in the page: <!-- not run: … -->"


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=page.name) for page, block in ALL if block.language in ("json", "yaml")]
)
def test_data_can_be_read(block: Block) -> None:
    assert yaml.safe_load(block.text) if block.language == "yaml" else _json_of(block.text)


def _json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]
