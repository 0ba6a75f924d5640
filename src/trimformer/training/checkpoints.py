"""Checkpoints of an unfinished training, and stages that it has finished: sealed when whole, checked before use."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from trimformer import processes
from trimformer.model.folders import to_disk, write_text

SEAL = "digests.json"
"""File of a checkpoint with the SHA-256 of all its others, by name; it is written last."""


class Sealing(TrainerCallback):
    """Seals every checkpoint once the Trainer has written it."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Put the newest checkpoint on the disk, and seal it; of several processes the first one does."""
        if processes.is_first():
            seal(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


def seal(checkpoint: Path) -> None:
    """Put a checkpoint on the disk, and write the digests of its files beside them."""
    for path in _files(checkpoint):
        to_disk(path)
    write_text(json.dumps(_digests(checkpoint), indent=2) + "\n", checkpoint / SEAL)


def newest_whole(folder: Path, say: Callable[[str], None]) -> Path | None:
    """Find the newest checkpoint to go on from, or None; those after it are removed, and `say` is told of damaged ones.

    It must be as it was sealed, and so must the best one so far, which it names.
    """
    for checkpoint in sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=step_of, reverse=True):
        if is_whole(checkpoint) and is_whole(_best(checkpoint)):
            return checkpoint
        if (checkpoint / SEAL).exists():
            say(f"{checkpoint} is damaged: going on from the one before, if there is one")
        shutil.rmtree(checkpoint)
    return None


def has_checkpoint(folder: Path) -> bool:
    """Tell whether there is a checkpoint below a folder that a run could go on from."""
    return any(folder.rglob(SEAL))


def step_of(checkpoint: Path | None) -> int:
    """Read the number of steps after which a checkpoint was made; 0 for none."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def is_whole(checkpoint: Path) -> bool:
    """Tell whether a folder is as it was sealed."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        return bool(sealed == _digests(checkpoint))
    except (OSError, ValueError):
        return False


def _best(checkpoint: Path) -> Path:
    """Find the best checkpoint that there was when one was made; itself where nothing was judged."""
    best = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8")).get("best_model_checkpoint")
    return checkpoint.with_name(Path(best).name) if best else checkpoint


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)


def _digests(checkpoint: Path) -> dict[str, str]:
    return {str(path.relative_to(checkpoint)): _digest(path) for path in _files(checkpoint)}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(2**20):
            digest.update(part)
    return digest.hexdigest()
