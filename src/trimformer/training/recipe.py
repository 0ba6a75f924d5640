"""The contract of a recipe, a method that trains: what it is given, and what it leaves.

A pruning method (`pruning/contract`) looks at unlabelled rows once. A recipe trains, in ordinary stages of
transformers' `Trainer`: it says what is trained, on which rows, for how long and by which losses, and what it leaves
for each budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor
from transformers import EarlyStoppingCallback, PreTrainedModel

from trimformer import plugins, processes
from trimformer.data.batches import MAX_ROWS, length_sorted_indices, make_batches, pad
from trimformer.data.rows import LABELS, Batch, Features, token_count
from trimformer.errors import InvalidOption
from trimformer.judging.project import Project
from trimformer.judging.result import TaskResult
from trimformer.judging.task import OwnLoss
from trimformer.judging.training_facts import DynamicFacts, RecipeFacts, TrainingFacts
from trimformer.model.manifest import plain, read, versions
from trimformer.model.sites import Masks
from trimformer.model.structure import Structure, parameter_count, read_structure
from trimformer.pruning.budget import Budget, MeasuredCost, Prices, workload_of
from trimformer.pruning.facts import (
    BudgetFacts,
    CalibrationFacts,
    ParameterFacts,
    PruningFacts,
    patterns,
    units_by_block,
)
from trimformer.pruning.fingerprint import fingerprint
from trimformer.pruning.result import PruningResult
from trimformer.training.checkpoints import Sealing, newest_whole, step_of
from trimformer.training.finetune import LOWER, FineTuning, GuardJudge, check_finite, facts_of, training_features
from trimformer.training.stages import Ledger, Spent, Stage, StageTrainer, keep_finished, read_finished, spending
from trimformer.training.trainer import DEFAULTS, Bar, Collate, collator, to_device, training_arguments

Start = Literal["finetuned", "pretrained"]


@dataclass(frozen=True)
class Left:
    """The result of a recipe for one budget."""

    model: PreTrainedModel
    masks: Masks
    """Units of the model as given that stay, by site."""
    kept: Mapping[str, float]
    """Share of the model as given that stays, by cost; that of the budget is among them."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """What the recipe chose for this budget, such as a width and a depth."""
    work: tuple[str, ...] = ()
    """Names of the work in `Course.spent` without which this would not be there."""
    dynamic: DynamicFacts | None = None
    """What only a model has that decides row by row."""
    shared_by: int = 1
    """Number of budgets that the work served."""
    warnings: tuple[str, ...] = ()
    """What a user should know before anything else."""


class Recipe(Protocol):
    """A method that trains: a frozen, keyword-only dataclass whose fields are its options."""

    starts_from: ClassVar[Start]
    """Whether it needs a fine-tuned model, or takes a pre-trained one."""
    needs_labels: ClassVar[bool]
    """False if rows of text are enough, and it looks at no label."""
    costs: ClassVar[tuple[str, ...]]
    """Names of the costs that a budget may be of."""

    def make(self, course: Course, budgets: Sequence[Budget]) -> Iterator[Left]:
        """Train, and give what is left for each budget, in their order; the course's model stays as it is."""


@dataclass(frozen=True)
class Course:
    """A recipe at work: the rows and the model, where unfinished work goes, and what was spent so far.

    Args:
        project: with rows set aside (`Project.with_guard`), by which a recipe may choose.
        folder: for checkpoints of the stages.
        tuning: the user's training arguments, which go before the recipe's, the number of rows and the patience.
        new_head: names of weights that start from random numbers.
        seed: of the choice and order of rows, and of all that is drawn.
        resume: go on where an interrupted run left off.
        sequence_length: tokens that FLOPs are counted at; None: the mean of the rows trained on.
    """

    project: Project
    folder: Path
    tuning: FineTuning = field(default_factory=lambda: FineTuning(patience=0))
    new_head: tuple[str, ...] = ()
    seed: int = 0
    resume: bool = False
    sequence_length: float | None = None
    spent: dict[str, Spent] = field(default_factory=dict)
    """Time by name of the work, in order."""
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts of the stages that are done, by name."""

    @cached_property
    def dense(self) -> Structure:
        """The model as given, seen as sites."""
        return read_structure(self.project.model)

    @cached_property
    def features(self) -> list[Features]:
        """Encoded training rows, labelled where the task's loss needs it."""
        return training_features(self.project, self.tuning, self.seed)

    @cached_property
    def unlabelled(self) -> list[Features]:
        """The same rows as plain inputs of the model; no label is looked at."""
        return training_features(self.project, self.tuning, self.seed, labels=False)

    @contextmanager
    def doing(self, name: str) -> Iterator[None]:
        """Within the context, work is done whose time counts under a name."""
        with spending(self.spent.get(name)) as spent:
            yield
        self.spent[name] = spent

    def collate(self, *, labelled: bool) -> Collate:
        """Choose how rows become a batch: with what the task's loss reads, or as plain inputs of the model."""
        task, tokenizer = self.project.task, self.project.tokenizer
        if labelled or not isinstance(task, OwnLoss):
            return collator(self.project.model, tokenizer, task)
        return lambda rows: pad(rows, tokenizer, "cpu")

    @cached_property
    def batches(self) -> list[Batch]:
        """Batches of all training rows with what the task's loss reads, at most 32 rows each, of like length."""
        rows, collate = self.features, self.collate(labelled=True)
        whole = range(len(rows))
        own = [list(whole[at : at + MAX_ROWS]) for at in range(0, len(rows), MAX_ROWS)]
        groups = own if isinstance(self.project.task, OwnLoss) else length_sorted_indices(rows)
        return [to_device(collate([rows[index] for index in group]), self.project.model.device) for group in groups]

    def task_loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Compute the loss that the task trains a model by, a scalar; batches as those of `features`."""
        task = self.project.task
        loss: Tensor = task.loss(model, batch) if isinstance(task, OwnLoss) else model(**batch).loss
        return loss

    def train(self, stage: Stage) -> None:
        """Train a stage's model in place, unless an interrupted run has done so; then its weights are read.

        Raises:
            DataError: rows that cannot be trained on.
            InvalidOption: training arguments that contradict each other.
            NumericalError: the training diverged.
        """
        folder, name = self.folder / stage.name, stage.name
        done = read_finished(folder, stage.model) if self.resume else None
        if done is None:
            done = self._train(stage, folder)
            keep_finished(folder, stage.model, done)
        self.spent[name] = Spent(**done.pop("spent"))
        self.trainings[name] = done
        stage.model.eval()

    def _train(self, stage: Stage, folder: Path) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        patience, ledger = self.tuning.patience or stage.patience, Ledger(folder)
        guard = GuardJudge(self.project, stage.model, stage.measure) if patience else None
        last = newest_whole(folder, self.project.stages.say) if self.resume else None
        chosen = {"num_train_epochs": stage.epochs, **stage.arguments, **self.tuning.arguments}
        trainer = StageTrainer(
            stage,
            task=self.project.task,
            judge=guard,
            args=training_arguments(
                chosen,
                folder=str(folder),
                device=stage.model.device,
                seed=self.seed,
                metric=guard.name if guard else None,
                higher=guard is not None and guard.name not in LOWER,
            ),
            train_dataset=list(stage.features),
            data_collator=self.collate(labelled=stage.labelled),
            callbacks=[Bar(self.project.stages, stage.name), ledger, Sealing(), *_stopping(patience)],
        )
        with spending(ledger.resume() if last else None) as spent:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        _first_buffers(stage.model)
        check_finite(stage.model)
        return facts_of(trainer, guard) | {
            "arguments": {**DEFAULTS, **chosen},
            "patience": patience,
            "seed": self.seed,
            "rows": len(stage.features),
            "guard_rows": len(guard.guard_rows) if guard else 0,
            "seconds": spent.seconds,
            "judging_seconds": guard.seconds if guard else 0.0,
            "resumed_at_step": step_of(last),
            "spent": vars(spent),
        }

    @cached_property
    def mean_length(self) -> float:
        """Mean number of tokens of the rows trained on."""
        return sum(map(token_count, self.unlabelled)) / len(self.unlabelled)

    def prices(self, cost: str) -> Prices:
        """Price the units of the model as given in a cost that is counted."""
        workload = workload_of(self.project.model, self.sequence_length, None, self.mean_length)
        prices: Prices = plugins.load("costs", cost).prices(self.dense, workload)
        return prices

    def kept_by_cost(self, masks: Masks) -> dict[str, float]:
        """Compute the share of the model's FLOPs and parameters that some units are."""
        return {cost: self.prices(cost).kept(masks) for cost in ("flops", "params")}

    def facts(self, name: str, options: Mapping[str, Any], budget: Budget, left: Left) -> PruningFacts:
        """Tell everything that is known of a result, as of a pruned model."""
        model, dense = left.model, self.dense
        return PruningFacts(
            method=name,
            options=dict(options),
            kept=left.kept,
            model_class=type(model).__name__,
            dtype=str(model.dtype).removeprefix("torch."),
            units=units_by_block(dense, left.masks),
            patterns=patterns(left.masks),
            parameters=ParameterFacts(dense=parameter_count(dense.model), pruned=parameter_count(model)),
            calibration=CalibrationFacts(
                tokens=sum(map(token_count, self.unlabelled)),
                sequences=len(self.unlabelled),
                mean_length=self.mean_length,
                seed=self.seed,
                fingerprint=fingerprint(make_batches(self.unlabelled, self.project.tokenizer, "cpu")),
            ),
            workload=workload_of(self.project.model, self.sequence_length, None, self.mean_length),
            processes=processes.count(),
            warnings=left.warnings,
            versions=versions(),
            budget=BudgetFacts(cost=budget.cost, asked=budget.keep_fraction, reached=left.kept[budget.cost]),
            seconds={"measuring": 0.0} | {name: self.spent[name].seconds for name in left.work},
        )


def check_budgets(name: str, recipe: Recipe, budgets: Sequence[Budget]) -> None:
    """Refuse budgets of a cost that a recipe cannot aim at, or with wishes that it does not know.

    Raises:
        InvalidOption: says what it can do.
    """
    for budget in budgets:
        known = budget.cost in recipe.costs and not isinstance(plugins.load("costs", budget.cost), MeasuredCost)
        if not known:
            raise InvalidOption(f"{name} takes budgets of {' or '.join(recipe.costs)}, not of {budget.cost}")
        if budget.round_to not in (None, 1) or budget.uniform:
            raise InvalidOption(f"{name} has sizes of its own: leave out `round_to` and `uniform`")
        _ = budget.keep_fraction


def inputs_of(batch: Batch) -> Batch:
    """Leave the labels out of a batch."""
    return {name: values for name, values in batch.items() if name not in LABELS}


def _stopping(patience: int) -> list[EarlyStoppingCallback]:
    return [EarlyStoppingCallback(patience)] if patience else []


def _first_buffers(model: PreTrainedModel) -> None:
    """Give every process the buffers of the first, such as running means: each has seen other rows."""
    if processes.count() > 1:
        for values in model.buffers():
            values.copy_(processes.agreed(values))


def judged(course: Course, name: str, recipe: Recipe, budget: Budget, left: Left, beside: Project) -> TaskResult:
    """Judge what a recipe left on the evaluation rows, beside a fine-tuned dense model.

    Args:
        course: the recipe's.
        name: of the recipe.
        recipe: with its options.
        budget: what was asked for.
        left: what came of it.
        beside: project of the dense model to compare with; its evaluation rows are judged on.
    """
    facts = course.facts(name, asdict(recipe), budget, left)  # type: ignore[call-overload]  # every recipe is a dataclass
    result = beside.judge(PruningResult(left.model, left.masks, facts, course.project.tokenizer))
    about = RecipeFacts(
        seconds={work: course.spent[work].seconds for work in left.work},
        cpu_seconds={work: course.spent[work].cpu_seconds for work in left.work},
        shared_by=left.shared_by,
        chosen=left.chosen,
        trainings={
            work: read(TrainingFacts, plain(course.trainings[work]), work)
            for work in left.work
            if work in course.trainings
        },
        dynamic=left.dynamic,
    )
    return replace(result, facts=replace(result.facts, recipe=about))
