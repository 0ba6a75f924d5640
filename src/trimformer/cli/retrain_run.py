"""A run of a recipe on the command line: it trains, leaves a checkpoint for each budget, and can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimformer import plugins
from trimformer.cli import console, steps
from trimformer.cli.training_run import TrainingRun
from trimformer.cli.workplace import workplace
from trimformer.errors import InvalidOption
from trimformer.judging.project import Project
from trimformer.judging.result import TaskResult
from trimformer.judging.task import has_head
from trimformer.model import checkpoint
from trimformer.progress import Progress
from trimformer.pruning.budget import Budget
from trimformer.pruning.method_options import make_plugin
from trimformer.report.frontier import write_sweep
from trimformer.training.finetune import FineTuning
from trimformer.training.recipe import Course, Recipe, check_budgets, judged


@dataclass(frozen=True, kw_only=True)
class Run(TrainingRun):
    """A run as it was asked for: the model, the rows, the recipe with its options, and the budgets."""

    method: str
    options: Mapping[str, Any]
    budgets: tuple[Budget, ...]
    training: FineTuning
    sequence_length: float | None = None

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
    """Do a whole run, with progress on stderr; each checkpoint is written when it is judged, and of several a sweep.

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
            steps.save_pruned(result, run.model, project.tokenizer, target, overwrite=overwrite)
            results.append(result)
        if len(results) > 1:
            write_sweep([result.facts for result in results], run.out)
    return results


def _project(run: Run, recipe: Recipe, progress: Progress) -> tuple[Project, list[str]]:
    """Load the model and the rows, some of which are set aside for what the recipe chooses.

    Raises:
        InvalidOption: the recipe starts from a fine-tuned model, and this one has no head for the task.
    """
    if recipe.starts_from == "finetuned" and not has_head(run.model, plugins.load("tasks", run.task)):
        raise InvalidOption(f"{run.method} needs a model fine-tuned for {run.task}: `trimformer finetune` makes one")
    project, new_head = run.project(run.model, progress)
    return project.with_guard(run.seed), new_head
