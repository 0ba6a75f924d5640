"""The result of pruning: a smaller model and its facts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from trimformer.model.manifest import plain
from trimformer.model.sites import Masks
from trimformer.pruning.facts import PruningFacts


@dataclass(frozen=True)
class PruningResult:
    """The pruned model, the masks of the units it kept, and every fact a person would ask for."""

    model: PreTrainedModel
    masks: Masks
    """By site, of its units; of single query heads where sizes of these were asked for."""
    facts: PruningFacts

    @property
    def manifest(self) -> dict[str, Any]:
        """The facts as plain JSON, to print or to save with the model; made anew each time it is asked for."""
        facts: dict[str, Any] = plain(self.facts)
        return facts

    def telling(self, **changes: Any) -> PruningResult:
        """Give the same result with other facts, by field of `PruningFacts`."""
        return replace(self, facts=replace(self.facts, **changes))
