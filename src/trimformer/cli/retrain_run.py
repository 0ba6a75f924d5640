"""A run of a recipe on the command line: it trains, leaves a checkpoint for each budget, and can be resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimformer import plugins
from trimformer.cli import console, steps
from trimformer.cli.workplace import Resumable, workplace
from trimformer.data.columns import naming_columns
from trimformer.errors import InvalidOption
from trimformer.judging.manifest import Origin
from trimformer.judging.project import Project
from trimformer.judging.result import TaskResult
from trimformer.judging.task import FitsRows, Task, fitted_to
from trimformer.model import checkpoint
from trimformer.model.modeling_trimformer import auto_class
from trimformer.progress import Progress
from trimformer.pruning.budget import Budget
from trimformer.pruning.method_options import make_plugin
from trimformer.training.finetune import FineTuning
from trimformer.training.heads import load_to_train
from trimformer.training.recipe import Course, Recipe, check_budgets, judged


@dataclass(frozen=True, kw_only=True)
class Run(Resumable):
    """A run as it was asked for: the model, the rows, the recipe with its options, and the budgets."""

    model: str
    task: str
    data: str | None
    method: str
    options: Mapping[str, Any]
    budgets: tuple[Budget, ...]
    training: FineTuning
    sequence_length: float | None = None
    max_length: int | None = None
    seed: int = 0
    device: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe with its options; raises `InvalidOption` where they are wrong."""
        made: Recipe = make_plugin("recipes", self.method, self.options)
        return made

    @property
    def targets(self) -> list[Path]:
        """Folder of the checkpoint for each budget: the output folder, or one in it for each of several."""
        if len(self.budgets) == 1:
            return [self.out]
        return [self.out / f"{budget.cost}-{budget.asked}" for budget in self.budgets]


def check(run: Run, *, overwrite: bool) -> None:
    """Refuse what cannot be done, before anything is read.

    Raises:
        TrimformerError: wrong options or budgets, or a folder that exists.
    """
    check_budgets(run.method, run.recipe, run.budgets)
    for target in run.targets:
        checkpoint.check_writable(target, overwrite=overwrite, source=run.model)


def carry_out(run: Run, *, resume: bool, overwrite: bool) -> list[TaskResult]:
    """Do a whole run, with progress on stderr; each checkpoint is written when it is judged.

    Raises:
        TrimformerError: wrong rows, a model that does not fit them, or a training that diverged.
    """
    recipe, results = run.recipe, list[TaskResult]()
    with console.progress_bars(console.error_console) as progress, workplace(run, resume=resume) as folder:
        project, new_head = _project(run, recipe, progress)
        course = Course(
            project,
            folder,
            tuning=run.training,
            new_head=tuple(new_head),
            seed=run.seed,
            resume=resume,
            sequence_length=run.sequence_length,
        )
        made = recipe.make(course, run.budgets)
        for budget, target, left in zip(run.budgets, run.targets, made, strict=True):
            result = judged(course, run.method, recipe, budget, left, project)
            steps.save_pruned(result, run.model, project.tokenizer, target, overwrite=overwrite or resume)
            results.append(result)
    return results


def _project(run: Run, recipe: Recipe, progress: Progress) -> tuple[Project, Sequence[str]]:
    task: Task = plugins.load("tasks", run.task)
    has_head = auto_class((checkpoint.load_config(run.model).architectures or [""])[0]) == task.auto_class
    if recipe.starts_from == "finetuned" and not has_head and task.auto_class is not None:
        raise InvalidOption(f"{run.method} needs a model fine-tuned for {run.task}: `trimformer finetune` makes one")
    with naming_columns(run.columns):
        train = task.rows(run.data, "train")
        if has_head:
            task = fitted_to(task, checkpoint.load_config(run.model))
        elif isinstance(task, FitsRows):
            task = task.for_rows(train)
        validation = task.rows(run.data, "validation")
    model, new_head = load_to_train(run.model, task, run.device, run.seed)
    project = Project(
        model,
        checkpoint.load_tokenizer(run.model),
        task,
        train,
        validation,
        max_length=run.max_length,
        progress=progress,
        stored_dtype=checkpoint.stored_dtype(run.model),
        origin=Origin(
            source=run.model, task=run.task, data=run.data or steps.HUB, command=run.command or "", columns=run.columns
        ),
    )
    return project.with_guard(run.seed), new_head
