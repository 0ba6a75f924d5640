"""P-pruning: a pre-trained model is pruned with unlabelled rows of the task, and what is left is fine-tuned.

Each budget has a training of its own, of a small model. Pruning needs neither labels nor gradients, training needs
labels. `trimformer pprune` is the same for one budget, with more options.

Source: Wang et al., Pruning before Fine-tuning (LREC-COLING 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.rows import Batch
from trimformer.errors import require_range
from trimformer.pruning.budget import Budget
from trimformer.pruning.method_options import check_needs_no_labels
from trimformer.pruning.parameters import DEFAULT_PRETRAINED_METHOD
from trimformer.training.p_pruning import prune_pretrained
from trimformer.training.recipe import Course, Left, Start
from trimformer.training.stages import Stage
from trimformer.training.trainer import DEFAULTS


@dataclass(frozen=True, kw_only=True)
class PPruning:
    """Options of the pruning, and of the fine-tuning that follows."""

    starts_from: ClassVar[Start] = "pretrained"
    needs_labels: ClassVar[bool] = True
    costs: ClassVar[tuple[str, ...]] = ("flops", "params")

    method: str = DEFAULT_PRETRAINED_METHOD
    """What prunes: a method that needs no labels."""
    calibration_tokens: int = 20000
    """Tokens of the unlabelled rows that it looks at; at least 1."""
    epochs: float = 3.0
    """Passes over the training rows; above 0."""
    learning_rate: float = DEFAULTS["learning_rate"]
    """Highest learning rate; small models take more, such as 1e-4."""

    def __post_init__(self) -> None:
        require_range("calibration_tokens", self.calibration_tokens, low=1)
        for name in ("epochs", "learning_rate"):
            require_range(name, getattr(self, name), low_included=False)
        check_needs_no_labels(self.method, DEFAULT_PRETRAINED_METHOD)

    def make(self, course: Course, budgets: Sequence[Budget]) -> Iterator[Left]:
        """Prune and fine-tune, budget by budget."""
        for budget in budgets:
            pruning, tuning = (f"{work}-{budget.cost}-{budget.asked}" for work in ("pruning", "fine-tuning"))
            with course.doing(pruning):
                small = prune_pretrained(
                    course.project,
                    budget,
                    new_head=course.new_head,
                    method=self.method,
                    calibration_tokens=self.calibration_tokens,
                    sequence_length=course.sequence_length,
                    seed=course.seed,
                    timed=False,
                )

            def losses(model: PreTrainedModel, batch: Batch) -> Iterator[Tensor]:
                yield course.task_loss(model, batch)

            course.train(
                Stage(
                    name=tuning,
                    model=small.model,
                    losses=losses,
                    features=course.features,
                    epochs=self.epochs,
                    arguments={"learning_rate": self.learning_rate},
                )
            )
            yield Left(
                model=small.model,
                masks=small.masks,
                kept=small.facts.pruning.kept,
                work=(pruning, tuning),
                warnings=small.facts.pruning.warnings,
            )


PROVIDES = {"p_pruning": PPruning}
