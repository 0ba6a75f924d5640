"""A model and whatever the user has to calibrate on -> a calibration: batches that fit, and their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from trimformer.data.batches import Padding, only, split_batches, tokens_at_once
from trimformer.data.given import Data, calibration_batches
from trimformer.data.rows import LABELS, Batch
from trimformer.data.tables import Column
from trimformer.model.limits import own_inputs
from trimformer.model.structure import Structure
from trimformer.observing.calibration import Calibration
from trimformer.observing.predictions import of_next_tokens
from trimformer.progress import Progress
from trimformer.pruning.memory import pass_tokens


@dataclass(frozen=True, kw_only=True)
class Source:
    """The data to calibrate on, as the user gave it, see `prune`."""

    data: Data
    tokenizer: PreTrainedTokenizerBase | None
    calibration_tokens: int | None
    seed: int
    column: Column


def calibration_on(
    dense: Structure, source: Source, progress: Progress | None, *, labels: bool, warn: Callable[[str], None]
) -> Calibration:
    """Make the calibration of a model; `warn` is told of what was left out of the data.

    Raises:
        DataError: no rows, rows that are not understood, or too few of them.
        LabelError: `labels` is set, and a row has none.
    """
    model = dense.model
    given = calibration_batches(
        source.data,
        source.tokenizer,
        source.calibration_tokens,
        source.seed,
        dense.device,
        labels=labels,
        column=source.column,
        padding=Padding.of(model.config),
        warn=warn,
    )
    batches = split_batches(given, min(tokens_at_once(model), pass_tokens(dense)))
    return Calibration(
        dense,
        own_inputs(batches, model),
        source.seed,
        progress or (lambda items, _: items),
        labels=_labels(dense, batches) if labels else None,
    )


def _labels(dense: Structure, batches: Sequence[Batch]) -> list[Batch]:
    """Collect the labels of some batches, each beside the prediction of it."""
    labels = only(batches, LABELS)
    return of_next_tokens(labels) if dense.predicts_next_tokens else labels
