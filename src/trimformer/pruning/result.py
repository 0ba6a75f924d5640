"""The result of pruning: a smaller model and its facts; how a result is shown, saved and reported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer import plugins
from trimformer.model.manifest import plain
from trimformer.model.sites import Masks
from trimformer.pruning.facts import PruningFacts


class Shown:
    """A result that says in one line what it is, shows itself in a notebook, and can be saved and reported."""

    def __repr__(self) -> str:
        return str(plugins.presentation().in_one_line(self))

    def _repr_html_(self) -> str:
        return str(plugins.presentation().as_html(self))

    def save(
        self, path: str | Path, *, tokenizer: PreTrainedTokenizerBase | None = None, overwrite: bool = False
    ) -> Path:
        """Write the model as a checkpoint, with its manifest, model card and tokenizer; give the folder.

        Args:
            path: the folder to make.
            tokenizer: another one than the result was made with.
            overwrite: replace an existing folder.

        Raises:
            CheckpointError: the folder exists and `overwrite` is not set, or it cannot be written.
        """
        return Path(plugins.presentation().save(self, path, tokenizer=tokenizer, overwrite=overwrite))

    def report(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the report, one HTML page that needs nothing else; give its path.

        Raises:
            CheckpointError: the file exists and `overwrite` is not set, or it cannot be written.
        """
        return Path(plugins.presentation().report(self, path, overwrite=overwrite))


@dataclass(frozen=True, repr=False)
class PruningResult(Shown):
    """The pruned model, the masks of the units it kept, and every fact a person would ask for."""

    model: PreTrainedModel
    masks: Masks
    """By site, of its units; of single query heads where sizes of these were asked for."""
    facts: PruningFacts
    tokenizer: PreTrainedTokenizerBase | None = None
    """The tokenizer that was given, if one was."""

    @property
    def manifest(self) -> dict[str, Any]:
        """The facts as plain JSON, to print or to save with the model; made anew each time it is asked for."""
        facts: dict[str, Any] = plain(self.facts)
        return facts

    def telling(self, **changes: Any) -> PruningResult:
        """Give the same result with other facts, by field of `PruningFacts`."""
        return replace(self, facts=replace(self.facts, **changes))
