"""A first look: pruning by a part of the calibration rows. Where the model hardly diverges on others, no more pay.

Mild sizes lose nothing that more text would bring back; it is not known before which ones are mild. A look costs little
beside all rows, and where it is enough, all that they would have cost is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel

from trimformer import processes
from trimformer.data.batches import split_batches
from trimformer.data.rows import Batch
from trimformer.model.structure import Structure
from trimformer.observing.calibration import Calibration
from trimformer.observing.predictions import mean_divergence
from trimformer.observing.resources import Used, watching_resources
from trimformer.observing.watching import frozen
from trimformer.progress import Stages
from trimformer.pruning.contract import LooksFirst, Method
from trimformer.pruning.parameters import FIXED_TOKENS
from trimformer.pruning.result import PruningResult

TOKENS = FIXED_TOKENS
"""About how many calibration tokens a first look takes."""
WORTHWHILE = 3
"""How many times as many there must be: of fewer, a look that is not enough would cost too large a part."""
TOKENS_A_PART = 1024
"""Most tokens, padding included, of a batch that is divided: so that of long rows, too, there are enough batches."""
JUDGED = 8
"""Of so many batches that a look leaves, one judges it."""


@dataclass(frozen=True)
class FirstLook:
    """Holds what a first look prunes by, and what it is judged by."""

    calibration: Calibration
    """A part of all calibration rows, of all lengths."""
    method: Method
    unseen: list[Batch]
    """Some of the others."""
    negligible: float
    """Divergence up to which the look is enough."""

    def tried(
        self, prune: Callable[[], PruningResult], whole: Calibration, stages: Stages
    ) -> tuple[PruningResult | None, Used]:
        """Prune by the look, and say whether it is enough; also give what it took.

        Args:
            prune: prunes by the rows of the look.
            whole: all calibration rows.
            stages: are told.

        Returns:
            What the look has pruned; None where it is not enough.
        """
        with watching_resources(whole.dense.device) as used:
            stages.say(f"a first look, at {self.calibration.tokens:,} tokens")
            found = prune()
            apart = self.divergence(whole.dense, found.model)
        if apart <= self.negligible:
            stages.say(f"more tokens would not pay: it is {apart:.2g} nats from the original on unseen rows")
            return found, used
        stages.say(f"{apart:.2g} nats from the original on unseen rows: going on with all {whole.tokens:,} tokens")
        return None, used

    def divergence(self, dense: Structure, small: PreTrainedModel) -> float:
        """Compute the mean divergence of predictions on rows that the look did not see, agreed among processes."""
        with frozen(dense.model), frozen(small):
            return processes.agreed_number(mean_divergence(dense.model, small, self.unseen))


def first_look(calibration: Calibration, method: Method) -> FirstLook | None:
    """Make what a first look needs; None where the method takes none, or there are not many more tokens than for it."""
    if not isinstance(method, LooksFirst) or not method.negligible or calibration.labels is not None:
        return None
    if calibration.tokens < WORTHWHILE * TOKENS:
        return None
    batches = split_batches(calibration.batches, TOKENS_A_PART)
    taken = _one_in(round(calibration.tokens / TOKENS), len(batches), calibration.seed)
    others = [batch for number, batch in enumerate(batches) if number not in taken]
    judged = _one_in(JUDGED, len(others), calibration.seed + 1)
    part = replace(calibration, batches=[batches[number] for number in taken])
    unseen = [others[number] for number in judged]
    return FirstLook(part, method.looking(), unseen, method.negligible) if unseen else None


def _one_in(size: int, count: int, seed: int) -> list[int]:
    """Draw one of every so many numbers below a count: of all lengths, since batches are in their order."""
    draw = np.random.default_rng(seed)
    return [start + int(draw.integers(min(size, count - start))) for start in range(0, count, size)]
