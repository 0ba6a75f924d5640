"""One call from data and model to a smaller model: a `Pruner` that is used once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.given import Data
from trimformer.data.tables import Column
from trimformer.progress import Progress
from trimformer.pruning.budget import Budget
from trimformer.pruning.parameters import AUTO, DEFAULT_METHOD, DEFAULT_MINUTES
from trimformer.pruning.pruner import Pruner
from trimformer.pruning.result import PruningResult
from trimformer.pruning.sizes import Sizes
from trimformer.pruning.target import check_asked


def prune(
    model: PreTrainedModel,
    data: Data,
    *,
    budget: Budget | None = None,
    sizes: Sizes | None = None,
    method: str = DEFAULT_METHOD,
    tokenizer: PreTrainedTokenizerBase | None = None,
    calibration_tokens: int | str | None = AUTO,
    minutes: float = DEFAULT_MINUTES,
    sequence_length: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    progress: Progress | bool | None = None,
    column: Column = None,
) -> PruningResult:
    """Make a model smaller; the model given stays as it is.

    Several processes of a group share the work, and all get the result: each calls this, with the same arguments.

    Args:
        model: a fine-tuned transformers model, dense or already pruned.
        data: what to calibrate on: texts or pairs of texts (with `tokenizer`), encoded rows (`input_ids`, …), what has
            columns of either (a Dataset, a frame of pandas or polars, a dictionary of lists), or padded batches such
            as a DataLoader's. Labels (`labels`, or `start_positions` and `end_positions`) are read only for methods
            that need them.
        budget: the share of the model's cost to keep, such as `Budget(flops=0.4)`.
        sizes: sizes of layers asked for by name, such as `Sizes(heads=8, keep_layers="0-3")`; without a budget, units
            that they do not speak of stay.
        method: pruning method; see `trimformer list`.
        tokenizer: for strings, and for the padding id.
        calibration_tokens: draw calibration rows until they hold this many tokens; auto: as many as pay, up to 100,000.
            With auto and 60,000 or more, a method may stay with 20,000 that are enough, see `first_look`. None takes
            all rows. A DataLoader's batches are all taken.
        minutes: bound the tokens that auto draws by the time that pruning is estimated to take.
        sequence_length: count FLOPs and measure time at this many tokens; else at the calibration rows' mean.
        batch_size: measure time on this many rows at once; else on 32, or fewer where rows are long or the vocabulary
            of a language model is large.
        seed: of all sampling.
        options: of the method, by name.
        progress: False shows no bars, True always does, None on a terminal and in a notebook; or a function that wraps
            a sequence to show a bar: `progress(items, text)`.
        column: name of the column with the text, or of two for pairs, where it is none of `text`, `sentence`,
            `sentence1` and `sentence2`, `question` and `context`.

    Raises:
        TrimformerError: any of its kinds; the message names the value, the range and the next step.

    >>> result = prune(model, texts, budget=Budget(flops=0.4), tokenizer=tokenizer)    # doctest: +SKIP
    >>> result.model.save_pretrained("smaller")                                        # doctest: +SKIP
    """
    check_asked(budget, sizes)
    pruner = Pruner(
        model,
        data,
        method=method,
        tokenizer=tokenizer,
        calibration_tokens=calibration_tokens,
        minutes=minutes,
        sequence_length=sequence_length,
        batch_size=batch_size,
        seed=seed,
        options=options,
        progress=progress,
        column=column,
    )
    return pruner.prune(budget, sizes)
