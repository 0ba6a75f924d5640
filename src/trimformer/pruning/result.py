"""What pruning gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from trimformer.model.sites import Masks


@dataclass
class PruningResult:
    """What `prune` returns: the pruned model, and every fact a person would ask for."""

    model: PreTrainedModel
    masks: Masks
    manifest: dict[str, Any] = field(default_factory=dict)
