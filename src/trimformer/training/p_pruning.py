"""P-pruning: a pre-trained model is pruned with unlabelled rows of a task, and the small one is fine-tuned.

A model without the task's head is pruned by its hidden states: all that it predicts so far. The head comes after.

Source: Wang et al., Pruning before Fine-tuning (LREC-COLING 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from trimformer.data.rows import sequences
from trimformer.judging.manifest import DENSE, PRUNED, Manifest
from trimformer.judging.project import Project
from trimformer.model.sites import Masks
from trimformer.observing import latency
from trimformer.pruning.budget import Budget
from trimformer.pruning.method_options import check_needs_no_labels
from trimformer.pruning.parameters import AUTO, DEFAULT_PRETRAINED_METHOD
from trimformer.pruning.pruner import Pruner
from trimformer.training.heads import put_on


@dataclass(frozen=True)
class PrunedPretrained:
    """A pruned pre-trained model with the task's head, and its facts; metrics come after fine-tuning."""

    model: PreTrainedModel
    masks: Masks
    facts: Manifest

    @property
    def manifest(self) -> dict[str, Any]:
        """Facts as plain JSON, to print or to save with the model; made anew each time."""
        return self.facts.as_json()


def prune_pretrained(
    project: Project,
    budget: Budget,
    *,
    new_head: Sequence[str] = (),
    calibration_tokens: int | str = AUTO,
    seed: int = 0,
    timed: bool = True,
    **options: Any,
) -> PrunedPretrained:
    """Make a smaller copy of a project's model, to be fine-tuned; no label is looked at.

    Args:
        project: with the model that `heads.load_to_train` returns.
        budget: the share of the model's cost to keep.
        new_head: names of the weights that are new; if there are any, only what is below the head is pruned by.
        calibration_tokens: draw calibration rows until they hold this many tokens; auto: as many as pay, up to 100,000.
        seed: of all sampling.
        timed: measure the time of both models.
        options: further ones of `Pruner`; the method is Dual CP unless said.

    Raises:
        InvalidOption: a method that needs labels, or wrong options.
        TrimformerError: wrong weights or rows.
    """
    method = options.setdefault("method", DEFAULT_PRETRAINED_METHOD)
    check_needs_no_labels(method, DEFAULT_PRETRAINED_METHOD)
    model = project.model
    dense: PreTrainedModel = model.base_model if new_head else model  # type: ignore[assignment]  # typed as any module
    drawn = replace(project, model=dense).drawn(calibration_tokens, seed)
    pruner = Pruner(
        dense,
        sequences(drawn) if new_head else drawn,
        tokenizer=project.tokenizer,
        calibration_tokens=calibration_tokens if isinstance(calibration_tokens, str) else None,
        seed=seed,
        progress=project.stages,
        **options,
    )
    result = pruner.prune(budget)
    models = {DENSE: dense, PRUNED: result.model}
    limit = latency.LONGEST_JUDGING
    times = latency.measure_within(limit, pruner.workload, models, progress=project.stages) if timed else {}
    facts = Manifest(model=result.facts, new_head=tuple(new_head), latency=times, origin=project.origin)
    whole = put_on(model, result.model) if new_head else result.model
    return PrunedPretrained(whole, result.masks, facts)
