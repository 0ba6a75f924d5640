"""Unfinished work of a run that trains: a folder beside the output folder, from which an interrupted run goes on.

It has `run.json` with what the run was asked for, and checkpoints. It goes away when the run is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from trimformer.cli import console
from trimformer.errors import CheckpointError, InvalidOption

ASKED, PRUNED = "run.json", "pruned"
NOT_ASKED = {"out", "device", "command"}
"""Fields of a run that may differ when it is resumed."""


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """A run that can be interrupted and resumed, as it was asked for."""

    out: Path

    @property
    def folder(self) -> Path:
        """Folder where unfinished work is kept."""
        return self.out.with_name(f"{self.out.name}.unfinished")

    @property
    def asked(self) -> dict[str, Any]:
        """Fields that must be the same for a run to be resumed, as JSON has them."""
        facts = {name: value for name, value in asdict(self).items() if name not in NOT_ASKED}
        return json.loads(json.dumps(facts, default=str))  # type: ignore[no-any-return]


@contextmanager
def workplace(run: Resumable, *, resume: bool) -> Iterator[Path]:
    """Within the context, a run has a folder for unfinished work, which stays after an interruption if it holds some.

    Raises:
        CheckpointError: an earlier run was interrupted and `resume` is not set.
        InvalidOption: the earlier run was asked for something else.
    """
    _check_earlier(run, resume=resume)
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / ASKED).write_text(json.dumps(run.asked, indent=2) + "\n")
    try:
        yield run.folder
    except BaseException:
        if _has_work(run.folder):
            console.say(f"{run.folder} keeps what was done: the same command with --resume goes on from there")
        else:
            shutil.rmtree(run.folder)
        raise
    shutil.rmtree(run.folder)


def _check_earlier(run: Resumable, *, resume: bool) -> None:
    asked = run.folder / ASKED
    if not run.folder.exists():
        return
    if not resume:
        raise CheckpointError(f"{run.folder} holds an interrupted run: go on with --resume, or delete that folder")
    try:
        earlier = json.loads(asked.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{asked} cannot be read: delete {run.folder} and start anew") from error
    for name, value in run.asked.items():
        if earlier.get(name) != value:
            said = f"the interrupted run has {name} {earlier.get(name)!r}, not {value!r}"
            raise InvalidOption(f"{said}: give the same again, or delete {run.folder}")


def _has_work(folder: Path) -> bool:
    return (folder / PRUNED).exists() or any(folder.rglob(TRAINER_STATE_NAME))
