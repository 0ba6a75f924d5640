"""Cases by seed: damage a file, run its command, judge; whatever is not good is kept so that it can be tried again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from fuzz.judge import GOOD, Ending, Verdict, ending, judged
from fuzz.world import KINDS, build, file_of, restore


class Case(NamedTuple):
    """One case: kind and seed, which make it again, what was done to which file, and the verdict."""

    kind: str
    seed: int
    what: str
    verdict: Verdict

    @property
    def is_good(self) -> bool:
        """Whether nothing is to be mended."""
        return self.verdict.word in GOOD


class Campaign:
    """A world in a folder, and its template beside it, made once."""

    def __init__(self, folder: Path) -> None:
        self.template, self.folder = folder / "template", folder / "world"
        self._whole: dict[str, Ending] = {}
        if not self.template.exists():
            new = folder / "new"
            new.mkdir(parents=True)
            with in_folder(new):
                build(new)
            new.rename(self.template)
        self.folder.mkdir(exist_ok=True)

    def run(self, name: str, seed: int, keep: Path | None = None) -> Case:
        """Try one case; one that is not good leaves its damaged file in `keep`."""
        kind, random = KINDS[name], Random(f"{name} {seed}")  # noqa: S311  # damage, no secrets
        whole = self.whole(name)
        restore(self.template, self.folder)
        file = file_of(random.choice(kind.files), self.folder)
        content, told = file.read_bytes(), []
        for _ in range(random.choice((1, 1, 1, 2))):
            content, what = random.choice(kind.mutators)(content or b" ", random)
            told.append(what)
        file.write_bytes(content)
        with in_folder(self.folder):
            result = self.folder / kind.result if kind.result else None
            verdict = judged(kind.command, result, whole, told=kind.told)
        case = Case(name, seed, f"{file.name}: {', '.join(told)}", verdict)
        if keep and not case.is_good:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{seed}-{file.name}").write_bytes(content)
        return case

    def whole(self, name: str) -> Ending:
        """How the command of a kind ends with the whole file."""
        if name not in self._whole:
            restore(self.template, self.folder)
            kind = KINDS[name]
            with in_folder(self.folder):
                self._whole[name] = ending(kind.command, self.folder / kind.result if kind.result else None)
        return self._whole[name]


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Within the context, a folder is the current one, and temporary files go below it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
