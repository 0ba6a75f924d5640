"""EBERT: dynamic pruning, one mask for every row, by small predictors that learn with the model.

Two predictors a layer read the first token of what a sublayer reads, and say which heads and which neurons this row
needs. They are trained together with the model, so that as many FLOPs are left out on average as were asked for; each
budget has a training of its own. Needs labels. Nothing becomes smaller on disk, and time is saved at most where a row
is computed alone: of several rows all units of all of them are computed, and what a row does not need is set to zero.

Source: Liu et al., EBERT: Efficient BERT Inference with Dynamic Structured Pruning (Findings of ACL 2021).

Differs from the paper in what it does not say: new predictors keep nearly all units, and a batch of a single row is
normalised by the running mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import make_batches
from trimformer.data.rows import Batch
from trimformer.errors import require_range
from trimformer.judging.training_facts import DynamicFacts
from trimformer.model.gating import check_gates, decided, gates, with_gates
from trimformer.observing import latency
from trimformer.observing.latency import Latency
from trimformer.pruning.budget import Budget
from trimformer.training.recipe import Course, Left, Start
from trimformer.training.stages import PLAIN, Group, Stage

SIZE_WEIGHT = 5.0
"""Weight of the shares of heads and of neurons beside that of FLOPs."""
TIMED_ROWS, TIMED_RUNS = 32, 5
NEAR = 0.02
"""Relative excess of FLOPs above what was asked for that is not worth a warning."""


@dataclass(frozen=True, kw_only=True)
class EBERT:
    """Options of the training; those of the paper by default."""

    starts_from: ClassVar[Start] = "finetuned"
    needs_labels: ClassVar[bool] = True
    costs: ClassVar[tuple[str, ...]] = ("flops",)

    epochs: float = 3.0
    """Passes over the training rows; above 0."""
    learning_rate: float = 3e-5
    """Highest learning rate of the model; small models take more, such as 1e-4."""
    predictor_rate: float = 0.02
    """Learning rate of the predictors, which stays."""
    strength: float = 4.0
    """Weight of the FLOPs beside the task's loss."""
    batch_size: int = 32
    """Rows in a step; at least 2, because predictors are normalised over them."""

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "predictor_rate", "strength"):
            require_range(name, getattr(self, name), low_included=False)
        require_range("batch_size", self.batch_size, low=2)

    def make(self, course: Course, budgets: Sequence[Budget]) -> Iterator[Left]:
        """Train a model with predictors for each budget, and tell what it computes of the evaluation rows."""
        check_gates(course.dense)
        for budget in budgets:
            model = with_gates(course.dense, course.seed).requires_grad_(requires_grad=True)
            accounts = _Accounts(course, model)

            def losses(trained: PreTrainedModel, batch: Batch, accounts: _Accounts = accounts) -> Iterator[Tensor]:
                loss = course.task_loss(trained, batch)
                yield loss + self.strength * accounts.distance(decided(trained), 1 - budget.keep_fraction)  # noqa: B023  # used up before the next one

            course.train(
                Stage(
                    name=work_of(budget),
                    model=model,
                    losses=losses,
                    features=course.features,
                    epochs=self.epochs,
                    arguments={
                        **PLAIN,
                        "learning_rate": self.learning_rate,
                        "per_device_train_batch_size": self.batch_size,
                    },
                    groups=self._groups,
                )
            )
            yield _left(course, model, accounts, budget)

    def _groups(self, model: PreTrainedModel) -> list[Group]:
        predictors = {id(each) for gate in gates(model).values() for each in gate.parameters()}
        by_kind = [
            [each for each in model.parameters() if (id(each) in predictors) is chosen] for chosen in (False, True)
        ]
        return [Group(by_kind[0], self.learning_rate), Group(by_kind[1], self.predictor_rate, constant=True)]


class _Accounts:
    """FLOPs of a model with gates, by what they decide."""

    def __init__(self, course: Course, model: PreTrainedModel) -> None:
        tables = course.prices("flops").tables
        self.units = {site: len(table) - 1 for site, table in tables.items() if len(table) > 1}
        self.unit = {site: float(tables[site][-1]) / units for site, units in self.units.items()}
        self.total = sum(float(table[-1]) for table in tables.values())
        self.predictors = sum(gate.entry.flops for gate in gates(model).values())
        self.heads = {site.name for site in course.dense.occupied if site.attends}

    def kept(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Compute the share of the dense model's FLOPs that each row takes, predictors counted: `(rows,)`."""
        parts = [mask.sum(1) * self.unit[site] for site, mask in masks.items()]
        return (sum(parts[1:], parts[0]) + self.predictors) / self.total

    def distance(self, masks: Mapping[str, Tensor], removed: float) -> Tensor:
        """`(S − s)² + 5 mean_l (1 − heads_l / H − s)² + 5 mean_l (1 − neurons_l / d_ff − s)²`, means over the rows.

        `S` is the share of FLOPs left out, `s` what was asked for.
        """
        shares = {site: mask.sum(1).mean() / self.units[site] for site, mask in masks.items()}
        kinds = [
            torch.stack([1 - share - removed for site, share in shares.items() if (site in self.heads) is attends])
            for attends in (True, False)
            if any((site in self.heads) is attends for site in shares)
        ]
        whole = (1 - self.kept(masks).mean() - removed).square()
        total: Tensor = whole + SIZE_WEIGHT * torch.stack([kind.square().mean() for kind in kinds]).sum()
        return total


@torch.inference_mode()
def _left(course: Course, model: PreTrainedModel, accounts: _Accounts, budget: Budget) -> Left:
    """Tell what the model computes of the evaluation rows, and how long it takes alone and together."""
    project = course.project
    rows = project.task.encode(project.evaluation_rows, project.tokenizer, project.max_length)
    shares = []
    for batch in project.stages(make_batches(rows, project.tokenizer, model.device), "counting"):
        model(**batch)
        shares += accounts.kept(decided(model)).tolist()
    models = {"dense": project.model, "pruned": model}
    dynamic = DynamicFacts(
        rows=len(shares),
        flops_low=min(shares),
        flops_high=max(shares),
        times={
            "1": _alone(models, make_batches_of_one(course, rows[:TIMED_ROWS])),
            str(TIMED_ROWS): latency.measure(
                models, make_batches(rows[:TIMED_ROWS], project.tokenizer, model.device)[0], runs=3 * TIMED_RUNS
            ),
        },
    )
    decided(model)
    masks = course.dense.full_masks()
    kept = {"flops": sum(shares) / len(shares), "params": 1.0}
    warnings = (_in_time(dynamic), *_missed(kept["flops"], budget.keep_fraction))
    work = (work_of(budget),)
    return Left(model=model, masks=masks, kept=kept, work=work, dynamic=dynamic, warnings=warnings)


def work_of(budget: Budget) -> str:
    """Name the training for a budget."""
    return f"training-{budget.asked}"


def _in_time(dynamic: DynamicFacts) -> str:
    """Say that nothing is smaller, and what time single rows and several at once take, as measured."""
    taken = [times["pruned"].median_ms / times["dense"].median_ms for times in dynamic.times.values()]
    counts = [f"{rows} at once {share:.2f} times as long" for rows, share in zip(dynamic.times, taken, strict=True)]
    return f"the model decides row by row: it is not smaller on disk; as measured, rows take {', '.join(counts)}"


def _missed(kept: float, asked: float) -> list[str]:
    if kept <= asked * (1 + NEAR):
        return []
    return [
        f"rows take {kept:.1%} of the FLOPs on average, {asked:.1%} was asked for: train longer, or more `strength`"
    ]


def make_batches_of_one(course: Course, rows: Sequence[Mapping[str, object]]) -> list[Batch]:
    """Make a batch of every row."""
    return [make_batches([row], course.project.tokenizer, course.project.model.device)[0] for row in rows]


def _alone(models: Mapping[str, PreTrainedModel], batches: Sequence[Batch]) -> dict[str, Latency]:
    """Time rows one by one, models in turn: median and quartiles over rows of each row's median."""
    measured = [latency.measure(models, batch, runs=TIMED_RUNS, warmup=1) for batch in batches]
    return {
        name: Latency(
            **latency.quartiles([each[name].median_ms for each in measured]),
            runs=TIMED_RUNS * len(batches),
            rows=1,
            length=round(sum(each[name].length for each in measured) / len(measured)),
            device=measured[0][name].device,
            threads=measured[0][name].threads,
        )
        for name in models
    }


PROVIDES = {"ebert": EBERT}
