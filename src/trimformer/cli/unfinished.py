"""The folder beside an output for what an interrupted run has done, by which it goes on: `OUT.unfinished`.

`run.json` there says what the run was asked for. The folder goes once the output is written; after an interruption it
stays if it holds some work.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from trimformer import processes
from trimformer.cli import console, steps
from trimformer.errors import CheckpointError, InvalidOption
from trimformer.model.folders import write_text
from trimformer.model.trimformer_checks import MANIFEST
from trimformer.pruning.journal import Journal
from trimformer.training.checkpoints import has_checkpoint

ASKED, WRITTEN, PRUNED, JOURNAL = "run.json", "written.json", "pruned", "journal"
NOT_ASKED = frozenset(
    ("out", "resume", "overwrite", "report", "push_to_hub", "as_json", "cache", "device", "device_map", "max_memory")
)
"""Options of a command that may differ when its run is resumed."""


def folder_of(out: Path) -> Path:
    """Name the folder of an output."""
    return out.with_name(f"{out.name}.unfinished")


def has_work(folder: Path) -> bool:
    """Tell whether a folder holds something to go on from."""
    some = (folder / PRUNED, folder / WRITTEN, *(folder / JOURNAL).glob("*.safetensors"))
    return any(path.exists() for path in some) or has_checkpoint(folder)


def goes_on(out: Path, *, resume: bool) -> bool:
    """Tell whether there is an interrupted run to resume: what is there of its output is its own, to be replaced."""
    return resume and has_work(folder_of(out))


@dataclass(frozen=True)
class Unfinished:
    """The folder of a run that may be interrupted; of several processes, the first one keeps it."""

    out: Path
    asked: Mapping[str, Any]
    """What must be the same for the run to be resumed, as JSON has it."""
    resume: bool

    @property
    def folder(self) -> Path:
        """The folder."""
        return folder_of(self.out)

    @property
    def journal(self) -> Journal:
        """The journal of its pruning."""
        return Journal(self.folder / JOURNAL, console.say)

    def begin(self) -> None:
        """Make the folder, or take it over.

        Raises:
            CheckpointError: an earlier run was interrupted and this one is not to resume it, or it cannot be read.
            InvalidOption: the earlier run was asked for something else.
        """
        if not processes.is_first():
            return
        if has_work(self.folder):
            self._check_earlier()
        elif self.folder.exists():
            self._check_ours()
            shutil.rmtree(self.folder)
        write_text(json.dumps(self.asked, indent=2) + "\n", self.folder / ASKED)

    def leave(self) -> None:
        """Say what an interrupted run leaves, or remove the folder where that is nothing."""
        if not processes.is_first() or not self.folder.exists():
            return
        if has_work(self.folder):
            console.say(f"{self.folder} keeps what was done: the same command with --resume goes on from there")
        else:
            shutil.rmtree(self.folder)

    def done(self) -> None:
        """Remove the folder: the output is written."""
        if processes.is_first():
            shutil.rmtree(self.folder)

    def note_written(self, target: Path) -> None:
        """Keep in mind that one of several outputs is written."""
        if processes.is_first():
            digest = hashlib.sha256((target / MANIFEST).read_bytes()).hexdigest()
            write_text(json.dumps(self._written | {target.name: digest}) + "\n", self.folder / WRITTEN)

    def has_written(self, target: Path) -> bool:
        """Tell whether the run that is resumed has written an output, which nothing has replaced since."""
        manifest = target / MANIFEST
        if not (self.resume and manifest.is_file()):
            return False
        return self._written.get(target.name) == hashlib.sha256(manifest.read_bytes()).hexdigest()

    @property
    def _written(self) -> dict[str, str]:
        try:
            found = json.loads((self.folder / WRITTEN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _check_ours(self) -> None:
        if any(self.folder.iterdir()) and not (self.folder / ASKED).exists():
            raise CheckpointError(f"{self.folder} is no folder of an interrupted run: choose another `out`, or move it")

    def _check_earlier(self) -> None:
        asked, folder = self.folder / ASKED, self.folder
        if not self.resume:
            raise CheckpointError(f"{folder} holds an interrupted run: go on with --resume, or delete that folder")
        try:
            earlier = json.loads(asked.read_text(encoding="utf-8"))
            differing = [name for name, value in self.asked.items() if earlier.get(name) != value]
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{asked} cannot be read: delete {folder} and start anew") from error
        for name in differing:
            said = f"the interrupted run has {name} {earlier.get(name)!r}, not {self.asked[name]!r}"
            raise InvalidOption(f"{said}: give the same again, or delete {folder}")


def begun(context: typer.Context, out: Path, *others: Path | None, resume: bool) -> Unfinished:
    """Begin a command's run, which has its outputs for itself; when it ends, it is told what an interruption leaves.

    Raises:
        TrimformerError: as `claim` and `Unfinished.begin`.
    """
    steps.claim(context, out, *others)
    asked = {name: value for name, value in context.params.items() if name not in NOT_ASKED}
    run = Unfinished(out, json.loads(json.dumps(asked, default=str)), resume)
    run.begin()
    context.call_on_close(run.leave)
    return run
