"""The arguments of `prune` and `Pruner`, checked before anything is read: a wrong one is named, with what to give."""

from __future__ import annotations

from typing import Any

import torch

from trimformer.errors import InvalidOption
from trimformer.model.arguments import check_mapping, check_tokenizer, told
from trimformer.pruning.cache import MeasuredCache
from trimformer.pruning.journal import Journal
from trimformer.pruning.parameters import check_parameters


def check_arguments(*, tokenizer: Any, options: Any, cache: Any, journal: Any, **parameters: Any) -> None:
    """Check all arguments but the model and its data, which are read with checks of their own.

    Args:
        tokenizer: must be one of transformers, or None.
        options: must be a dictionary, or None.
        cache: must be a `MeasuredCache`, or None.
        journal: must be a `Journal`, or None.
        parameters: those of `pruning.parameters`, by name.

    Raises:
        InvalidOption: names the argument, its value, and what it must be.
    """
    if torch.is_inference_mode_enabled():
        raise InvalidOption(
            "within torch.inference_mode() no model can be changed: leave it, torch.no_grad() is enough"
        )
    if any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")):
        raise InvalidOption("within torch.autocast() statistics would be rounded to half precision: leave it")
    check_parameters(**parameters)
    check_tokenizer(tokenizer)
    check_mapping("options", options, '{"damping": 0.3}; see the method\'s own')
    if cache is not None and not isinstance(cache, MeasuredCache):
        raise InvalidOption(f"`cache={told(cache)}` must be a MeasuredCache, or left out")
    if journal is not None and not isinstance(journal, Journal):
        raise InvalidOption(f"`journal={told(journal)}` must be a Journal, or left out")
