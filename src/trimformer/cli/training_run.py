"""What runs that train have in common: a model with a task's head, and the rows that it is trained and judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trimformer import plugins
from trimformer.cli import steps
from trimformer.cli.workplace import Resumable
from trimformer.data.columns import naming_columns
from trimformer.data.files import some_rows
from trimformer.errors import InvalidOption
from trimformer.judging.manifest import Origin
from trimformer.judging.project import Project
from trimformer.judging.task import FitsRows, Task, fitted_to, has_head
from trimformer.model import checkpoint
from trimformer.progress import Progress
from trimformer.training.heads import load_to_train


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Resumable):
    """A run that trains, as it was asked for."""

    model: str
    task: str
    data: str | None
    max_length: int | None = None
    evaluation_rows: int | None = None
    """How many rows it is judged on; None for all."""
    seed: int = 0
    device: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    """What the columns of the rows are called, see `Origin`."""
    new_head: bool = False
    """Whether a head that the model has gives way to one for the classes of the rows."""
    command: str | None = None
    """Command line as it was typed."""

    def project(self, name: str, progress: Progress) -> tuple[Project, list[str]]:
        """Load a checkpoint with the task's head, and all rows.

        Returns:
            The project, and the names of the weights that start from random numbers.

        Raises:
            TrimformerError: wrong rows, a model that does not fit them, or a new head for a task without one.
        """
        task: Task = plugins.load("tasks", self.task)
        if self.new_head and task.auto_class in (None, "AutoModel"):
            raise InvalidOption(f"{self.task} needs no head: leave out `new_head`, or name another `task`")
        with naming_columns(self.columns):
            train = task.rows(self.data, "train")
            if task.auto_class is not None and has_head(name, task) and not self.new_head:
                task = fitted_to(task, checkpoint.load_config(name))
            elif isinstance(task, FitsRows):
                task = task.for_rows(train)
            validation = task.rows(self.data, "validation")
        model, new_head = load_to_train(name, task, self.device, self.seed, new_head=self.new_head)
        project = Project(
            model,
            checkpoint.load_tokenizer(name),
            task,
            train,
            some_rows(validation, self.evaluation_rows),
            max_length=self.max_length,
            progress=progress,
            stored_dtype=checkpoint.stored_dtype(self.model),
            origin=Origin(
                source=self.model,
                task=self.task,
                data=self.data or steps.HUB,
                command=self.command or "",
                columns=self.columns,
            ),
        )
        return project, list(new_head)
