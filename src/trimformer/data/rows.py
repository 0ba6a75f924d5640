"""The nouns of rows: splits, encoded rows, padded batches, and what their columns are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

Split = Literal["train", "validation"]


MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""What a model is given; labels never are."""


LABELS = ("labels", "start_positions", "end_positions")
"""What a row may also have, for those who ask for labels: a class or number, or where an answer begins and ends."""


Features = Mapping[str, Any]
"""One encoded, unpadded row: `input_ids`, `attention_mask`, … as lists of integers; `LABELS` only where asked for."""


Batch = dict[str, Tensor]
"""Padded model inputs, `(batch, length)` each, `attention_mask` included; never labels."""
