"""A pruned model with its judgement, and warnings of one that says little, or that is bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.judging.manifest import DENSE, PRUNED, Manifest
from trimformer.judging.metrics import DISTANCES, LOWER_IS_BETTER, PERPLEXITY, Metrics, shown
from trimformer.observing.latency import Latency
from trimformer.pruning.facts import BudgetFacts, SizesFacts
from trimformer.pruning.result import PruningResult, Shown
from trimformer.vocabulary.facts import VocabularyFacts

FEW_ROWS = 50
COLLAPSE = 0.1
"""Relative fall of the judging metric above which a warning says so loudly."""
DOUBLED = 1.0
"""Relative rise above which a warning does, where lower is better."""


@dataclass(frozen=True, repr=False)
class TaskResult(Shown):
    """A pruning result with its judgement: metrics and times of both models."""

    pruning: PruningResult
    facts: Manifest
    tokenizer: PreTrainedTokenizerBase | None = None
    stored_dtype: torch.dtype | None = None
    """Precision in which the model is saved."""

    @property
    def model(self) -> PreTrainedModel:
        """The pruned model."""
        return self.pruning.model

    @property
    def manifest(self) -> dict[str, Any]:
        """Record of the result as plain JSON, to print or to save with the model; made anew each time."""
        return self.facts.as_json()

    @property
    def before(self) -> Metrics:
        """Metrics of the dense model."""
        return self.facts.metrics[DENSE]

    @property
    def after(self) -> Metrics:
        """Metrics of the pruned model."""
        return self.facts.metrics[PRUNED]

    @property
    def latency(self) -> Mapping[str, Latency]:
        """Measured time of both models, by `dense` and `pruned`."""
        return self.facts.latency


def few_rows(after: Metrics) -> str | None:
    """Word a warning where evaluation rows are fewer than 50, too few for an interval to mean much; else None."""
    rows = next(iter(after.values())).sample_size
    return f"only {rows} evaluation rows: metrics and intervals tell little" if rows < FEW_ROWS else None


def other_tokens(after: Metrics, vocabulary: VocabularyFacts | None) -> str | None:
    """Word a warning where a perplexity is among other tokens than the dense model's; else None."""
    if vocabulary is None or PERPLEXITY not in after:
        return None
    return (
        f"the pruned model's perplexity is among its {vocabulary.tokens.after:,} kept tokens, the dense one's among "
        f"{vocabulary.tokens.before:,}: they cannot be compared; prune without `vocabulary` to know what is lost"
    )


def collapse(before: Metrics, after: Metrics, budget: BudgetFacts, sizes: SizesFacts | None = None) -> str | None:
    """Word a loud warning where the accuracy collapsed, with a milder budget or larger sizes to try; else None."""
    name, dense = next(iter(before.items()))
    change = (after[name].value - dense.value) / max(abs(dense.value), 1e-12)
    worse, most = (change, DOUBLED) if name in LOWER_IS_BETTER else (-change, COLLAPSE)
    if name in DISTANCES or worse <= most:
        return None
    share = min(1.5 * budget.asked + 0.05, (budget.asked + 1) / 2)
    milder = f"`{budget.cost}={share:.2g}`, or prune with `max_drop=0.02`"
    if sizes is not None and sizes.alone:
        milder = "larger sizes, or drop less"
    return (
        f"{name} {'rose' if change > 0 else 'fell'} from {shown(dense.value)} to {shown(after[name].value)} "
        f"({abs(change):.0%}): "
        f"this is too small for the task; try {milder}"
    )
