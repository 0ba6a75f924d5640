"""Runs that train: each has a folder for its unfinished work, from which an interrupted one goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimformer.cli.unfinished import Unfinished
from trimformer.model.folders import explained

NOT_ASKED = {"out", "device", "command"}
"""Fields of a run that may differ when it is resumed."""


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """A run that can be interrupted and resumed, as it was asked for."""

    out: Path

    @property
    def asked(self) -> dict[str, Any]:
        """Fields that must be the same for a run to be resumed, as JSON has them."""
        facts = {name: value for name, value in asdict(self).items() if name not in NOT_ASKED}
        return json.loads(json.dumps(facts, default=str))  # type: ignore[no-any-return]


@contextmanager
def workplace(run: Resumable, *, resume: bool) -> Iterator[Path]:
    """Within the context, a run has a folder for unfinished work, which stays after an interruption if it holds some.

    Raises:
        CheckpointError: an earlier run was interrupted and `resume` is not set, or the folder cannot be written to.
        InvalidOption: the earlier run was asked for something else.
    """
    unfinished = Unfinished(run.out, run.asked, resume)
    with explained(unfinished.folder):
        unfinished.begin()
        try:
            yield unfinished.folder
        except BaseException:
            unfinished.leave()
            raise
    unfinished.done()
