"""A model and whatever the user has to calibrate on -> a calibration: batches that fit, and their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from trimformer.data.batches import Padding, only, split_batches, tokens_at_once
from trimformer.data.given import Data, calibration_batches
from trimformer.data.rows import LABELS, Batch, Features
from trimformer.data.tables import Column
from trimformer.model.limits import own_inputs
from trimformer.model.structure import Structure
from trimformer.observing.calibration import Calibration
from trimformer.observing.predictions import of_next_tokens
from trimformer.progress import Stages
from trimformer.pruning.contract import Method
from trimformer.pruning.facts import CalibrationFacts
from trimformer.pruning.fingerprint import fingerprint
from trimformer.pruning.memory import pass_tokens
from trimformer.pruning.parameters import MOST_TOKENS
from trimformer.pruning.timing import Timing


@dataclass(frozen=True)
class Source:
    """The data to calibrate on, as the user gave it, see `prune`."""

    data: Data
    tokenizer: PreTrainedTokenizerBase | None
    calibration_tokens: int | str | None
    minutes: float
    sequence_length: float | None
    seed: int
    column: Column


def calibration_on(
    dense: Structure, source: Source, method: Method, progress: Stages, warn: Callable[[str], None]
) -> tuple[Calibration, bool]:
    """Make the calibration of a model for a method; `warn` is told of what is wrong with the data.

    Returns:
        The calibration, and whether its number of tokens was chosen here: none was asked for, and no batches given.

    Raises:
        DataError: no rows, rows that are not understood, or too few of them.
        LabelError: the method needs labels, and a row has none.
    """
    model, labels, tokens = dense.model, method.needs_labels, source.calibration_tokens
    timing, chosen = Timing(dense, source.tokenizer, method, source.minutes, progress.say), list[bool]()

    def choose(rows: Sequence[Features]) -> int | None:
        chosen.append(isinstance(tokens, str))
        return timing.chosen(tokens, rows)

    given = calibration_batches(
        source.data,
        source.tokenizer,
        MOST_TOKENS if isinstance(tokens, str) else tokens,
        source.seed,
        dense.device,
        labels=labels,
        column=source.column,
        padding=Padding.of(model.config),
        choose=choose,
        warn=warn,
    )
    batches = split_batches(given, min(tokens_at_once(model), pass_tokens(dense)))
    calibration = Calibration(
        dense, own_inputs(batches, model), source.seed, progress, labels=_labels(dense, batches) if labels else None
    )
    for warning in shorter(calibration.mean_length, source.sequence_length, "`sequence_length` is"):
        warn(warning)
    return calibration, any(chosen)


SHORT = 0.5


def shorter(mean_length: float, length: float | None, what: str) -> list[str]:
    """Warn if calibration rows are on average less than half as long as the model's use; else give none.

    Args:
        mean_length: of the calibration rows, in tokens.
        length: of the use; None where it is not known.
        what: has that length, with its verb.
    """
    if length is None or mean_length >= SHORT * length:
        return []
    return [
        (
            f"the calibration rows have {mean_length:.0f} tokens on average, {what} {length:.0f}: accuracy may suffer; "
            "calibrate on texts as long as those that the model will read"
        )
    ]


def calibration_facts(calibration: Calibration) -> CalibrationFacts:
    """Tell what a model was calibrated on."""
    return CalibrationFacts(
        tokens=calibration.tokens,
        sequences=calibration.sequences,
        mean_length=calibration.mean_length,
        seed=calibration.seed,
        fingerprint=fingerprint(calibration.batches),
    )


def _labels(dense: Structure, batches: Sequence[Batch]) -> list[Batch]:
    """Collect the labels of some batches, each beside the prediction of it."""
    labels = only(batches, LABELS)
    return of_next_tokens(labels) if dense.predicts_next_tokens else labels
