"""Run a model over rows, in batches of like length, and keep what is read of its output, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer import processes
from trimformer.data.batches import MAX_PADDED_TOKENS, length_sorted_indices, pad
from trimformer.data.rows import Batch, Features, token_count
from trimformer.errors import DataError, NumericalError
from trimformer.model.limits import check_padding, check_rows
from trimformer.model.offload import device_of
from trimformer.progress import Progress

Read = Callable[[Any, Batch], Mapping[str, Iterable[Tensor]]]
"""Function that reads a model's output: `(output, batch)` -> by name, one tensor for each row of the batch."""


@contextmanager
def inference(*models: PreTrainedModel) -> Iterator[None]:
    """Within the context, models are in evaluation mode and without gradients; then every module is as it was."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def outputs_by_row(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: Sequence[Features],
    read: Read,
    *,
    progress: Progress | None = None,
    max_padded_tokens: int = MAX_PADDED_TOKENS,
) -> dict[str, list[Tensor]]:
    """Run a model over rows and keep what `read` takes of its output: by name, a CPU tensor a row, in their order.

    Several processes share the rows, and all have the whole result.

    Raises:
        DataError: no rows, or tokens or padding that the model does not know.
        NumericalError: the model's output is NaN or infinite.
    """
    if not features:
        raise DataError("no rows to evaluate on: give at least one")
    check_rows(features, tokenizer, model.config)
    batches = length_sorted_indices(features, max_padded_tokens=max_padded_tokens)
    own = processes.own_places([len(indices) * token_count(features[indices[0]]) for indices in batches])
    found: dict[str, Tensor] = {}
    with inference(model):
        for place in own if progress is None else progress(own, "evaluating"):
            indices = batches[place]
            batch = pad([features[index] for index in indices], tokenizer, device_of(model))
            check_padding(model, [batch])
            for name, values in read(model(**batch), batch).items():
                found |= {f"{name} {row}": value.cpu() for row, value in zip(indices, values, strict=True)}
    found = processes.gathered(found)
    names = dict.fromkeys(name.rpartition(" ")[0] for name in found)
    return {name: [_finite(found[f"{name} {row}"], name) for row in range(len(features))] for name in names}


def _finite(value: Tensor, name: str) -> Tensor:
    if not bool(value.isfinite().all()):
        raise NumericalError(f"the model's {name} is NaN or infinite: load it in float32, or check its weights")
    return value
