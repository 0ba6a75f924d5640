"""Token ids that configs name: of special tokens, which stay, and lists of ids to avoid, which may become shorter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES_A_TOKEN = ("_token_id", "_token_ids", "_token_index")
"""Ends of the names of fields that hold ids of special tokens."""
AVOIDED = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "sequence_bias")
"""Fields that hold ids or sequences of ids which generation avoids or prefers; one without a token left is dropped."""
FORCED = "forced_decoder_ids"
"""Field that holds pairs of a position and an id."""


def named(config: Any) -> set[int]:
    """List the ids of special tokens that a config, or a part of it, names; negative ones mean none."""
    found: set[int] = set()
    for part in _parts(config):
        for name, value in vars(part).items():
            if name.endswith(NAMES_A_TOKEN):
                found |= {index for index in _flat(value) if index >= 0}
            elif name == FORCED and value:
                found |= {pair[1] for pair in value if pair[1] is not None}
    return found


def renumber(config: Any, new: Mapping[int, int]) -> None:
    """Put new ids into a config, in place.

    Args:
        config: of a model, or of its generation.
        new: new ids by old ones, with all that `named` lists.
    """
    for part in _parts(config):
        for name, value in tuple(vars(part).items()):
            if value is None:
                continue
            if name.endswith(NAMES_A_TOKEN):
                setattr(part, name, _renumbered(value, new))
            elif name == FORCED:
                setattr(part, name, [[place, None if index is None else new[index]] for place, index in value])
            elif name in AVOIDED:
                setattr(part, name, _avoided(value, new))


def _parts(config: Any) -> list[Any]:
    """List a config and the configs inside it."""
    inner = [part for name, part in vars(config).items() if hasattr(part, "to_dict") and name != "quantization_config"]
    return [config, *(each for part in inner for each in _parts(part))]


def _flat(value: Any) -> list[int]:
    if isinstance(value, (list, tuple)):
        return [index for entry in value for index in _flat(entry)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []


def _renumbered(value: Any, new: Mapping[int, int]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_renumbered(entry, new) for entry in value]
    return new[value] if isinstance(value, int) and value >= 0 else value


def _avoided(value: Any, new: Mapping[int, int]) -> Any:
    """Renumber ids, sequences of them, or numbers by sequence; those with a token that is gone are left out."""
    if isinstance(value, Mapping):
        return {tuple(new[index] for index in ids): bias for ids, bias in value.items() if all(i in new for i in ids)}
    kept = [entry for entry in value if all(index in new for index in _flat(entry))]
    if value and isinstance(value[0], (list, tuple)) and value[0] and isinstance(value[0][0], (list, tuple)):
        return [[_renumbered(ids, new), bias] for ids, bias in kept if all(index in new for index in ids)]
    return _renumbered(kept, new)
