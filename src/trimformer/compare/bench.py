"""One task of a comparison at work: its models, loaded or fine-tuned once, and the cells run on them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from trimformer import plugins
from trimformer.compare.plan import Cell, Contender, Source, Subject
from trimformer.compare.rows import Outcome, PackedMask, Row, WholeCost
from trimformer.compare.sources import CHARACTERS, data_digest, model_digest
from trimformer.data.batches import device_of_batch, make_batches
from trimformer.data.columns import naming_columns
from trimformer.data.files import some_rows
from trimformer.data.hub import hub_revision, model_folder
from trimformer.data.rows import Batch, sequences
from trimformer.errors import CheckpointError, TrimformerError
from trimformer.judging.names import shared_text
from trimformer.judging.project import Project
from trimformer.judging.result import TaskResult
from trimformer.judging.task import Task
from trimformer.model import checkpoint, placement
from trimformer.model.claims import scratch_folder
from trimformer.model.manifest import read_manifest, versions
from trimformer.observing.resources import Machine, watching_resources
from trimformer.progress import Progress, Stages
from trimformer.pruning.budget import Budget
from trimformer.pruning.method_options import asked_by, make_plugin
from trimformer.pruning.pruner import Pruner
from trimformer.training.finetune import FineTuned, FineTuning, finetune
from trimformer.training.heads import load_to_train, put_on
from trimformer.training.recipe import Course, check_budgets, judged
from trimformer.training.stages import Spent, spending

DENSE_SEED = 0
"""Seed of a dense model's fine-tuning: all seeds of a comparison prune the same one."""
TIMED_ROWS = 512
"""Most rows of a recipe that a forward pass is timed on."""
DETERMINING_VERSIONS = ("trimformer", "torch", "transformers")


class Bench:
    """A subject's models and rows; nothing is loaded before it is needed.

    Args:
        subject: the task.
        device: name of the device, as `placement.find_device` reads it.
        folder: where dense models that are fine-tuned here are kept.
    """

    def __init__(self, subject: Subject, device: str, folder: Path) -> None:
        self.subject, self.device, self.folder = subject, device, folder
        self.task: Task = plugins.load("tasks", subject.task)
        self.show: Progress = lambda items, _: items
        """Progress bar of the moment, which may be replaced at any time."""

    def identity(self, cell: Cell) -> dict[str, Any]:
        """Collect everything that decides a cell's outcome, as it reads back from JSON."""
        subject, contender, budget = cell.subject, cell.contender, cell.budget
        training = contender.training and asdict(contender.training)
        unusual = {"training": training, "evaluation_rows": subject.evaluation_rows}
        return _as_json(
            {name: value for name, value in unusual.items() if value is not None}
            | {
                "task": subject.task,
                **self._content,
                "max_length": subject.max_length,
                "method": contender.method,
                "options": dict(contender.options),
                "before_finetuning": contender.before_finetuning,
                "finetuning": self._finetuning if contender.before_finetuning or subject.model is None else None,
                "budget": {"cost": budget.cost, "share": budget.keep_fraction, "round_to": budget.round_to},
                "calibration_tokens": contender.calibration_tokens,
                "sequence_length": subject.sequence_length,
                "seed": cell.seed,
                "device": placement.find_device(self.device).type,
                "versions": {name: versions()[name] for name in DETERMINING_VERSIONS},
            }
        )

    def progress(self, items: Sequence[Any], description: str) -> Any:
        """Show progress as `show` does at the time."""
        return self.show(items, description)

    def free(self) -> None:
        """Let go of the models and rows; they are loaded again when they are needed."""
        for name in ("dense", "_rows"):
            self.__dict__.pop(name, None)

    def run(self, cells: Sequence[Cell]) -> Iterator[Row]:
        """Run cells that differ in their budget only, a row each: one measurement serves them all.

        A cell that cannot be done is a row with the reason; what fails before the first one, such as loading a model,
        is raised.
        """
        if cells[0].contender.training is not None:
            yield from self._run_recipe(cells)
            return
        project, pruner = self._pruner(cells[0].contender, cells[0].seed)
        _ = self.dense.before  # what no cell of the task can do fails here
        forward = _forward(pruner.calibration.dense.model, pruner.calibration.batches)
        for cell in cells:
            about = (cell.subject.label, cell.contender.label, self.identity(cell))
            try:
                yield Row(*about, self._outcome(cell, project, pruner, forward))
            except TrimformerError as error:
                yield Row(*about, None, shared_text(str(error)))

    def _run_recipe(self, cells: Sequence[Cell]) -> Iterator[Row]:
        """Train once for all budgets, or once for each, as the recipe does; an interrupted training goes on."""
        _ = self.dense.before  # as in `run`
        first, waiting = cells[0], list(cells)
        folder = self.folder / f"training-{_digest(self.identity(first) | {'budget': None})}"
        try:
            for outcome in self._trained(first, [cell.budget for cell in cells], folder):
                cell = waiting.pop(0)
                yield Row(cell.subject.label, cell.contender.label, self.identity(cell), outcome)
        except TrimformerError as error:
            for cell in waiting:
                yield Row(cell.subject.label, cell.contender.label, self.identity(cell), None, shared_text(str(error)))
        shutil.rmtree(folder, ignore_errors=True)

    def _trained(self, cell: Cell, budgets: Sequence[Budget], folder: Path) -> Iterator[Outcome]:
        contender = cell.contender
        recipe = make_plugin("recipes", contender.method, contender.options)
        check_budgets(contender.method, recipe, budgets)
        project, new_head = self.before_finetuning(cell.seed) if contender.needs_pretrained else (self.dense, [])
        course = Course(
            project.with_guard(cell.seed),
            folder,
            tuning=contender.training or FineTuning(patience=0),
            new_head=tuple(new_head),
            seed=cell.seed,
            resume=True,
            sequence_length=self.subject.sequence_length,
        )
        rows = course.unlabelled[:TIMED_ROWS]
        forward = _forward(project.model, make_batches(rows, project.tokenizer, project.model.device))
        per_row = replace(forward, cpu_seconds=forward.cpu_seconds / len(rows), seconds=forward.seconds / len(rows))
        made = recipe.make(course, budgets)
        for budget in budgets:
            with watching_resources(project.model.device) as used:
                left = next(made)
            result = judged(course, contender.method, recipe, budget, left, self.dense)
            about = result.facts.recipe
            spent = {name: course.spent[name] for name in left.work}
            whole = WholeCost(
                cpu_seconds=sum(each.cpu_seconds for each in spent.values()),
                forward_cpu_seconds=per_row.cpu_seconds * len(self._rows[0]),
                shared_by=left.shared_by,
                trained_rows=len(course.unlabelled),
            )
            seconds = {
                "measuring": 0.0,
                "pruning": sum(each.seconds for each in spent.values()),
                "finetuning": self.dense_seconds,
            }
            outcome = _outcome(result, seconds, used.memory_mb, per_row.seconds * len(course.unlabelled), whole)
            single = about.dynamic.times["1"] if about and about.dynamic else None
            yield replace(outcome, single=single)

    def _pruner(self, contender: Contender, seed: int) -> tuple[Project, Pruner]:
        """Make a pruner of the fine-tuned model or of the pre-trained one, and the project that it belongs to.

        Where the pre-trained model has a new head, the pruner sees what is below it only.
        """
        project, new_head = self.before_finetuning(seed) if contender.before_finetuning else (self.dense, [])
        if new_head:
            base: Any = project.model.base_model
            project, whole = replace(project, model=base), project
        else:
            whole = project
        with asked_by(contender.method):
            labels = plugins.load("methods", contender.method).needs_labels
            drawn = project.drawn(contender.calibration_tokens, seed, labels=labels)
            rows = sequences(drawn) if new_head else drawn
        pruner = Pruner(
            project.model,
            rows,
            method=contender.method,
            options=contender.options,
            tokenizer=project.tokenizer,
            calibration_tokens=None,
            sequence_length=self.subject.sequence_length,
            seed=seed,
            progress=Stages(self.progress, 0),
        )
        return whole, pruner

    def _outcome(self, cell: Cell, project: Project, pruner: Pruner, forward: Spent) -> Outcome:
        measuring = pruner.measuring_cpu_seconds(cell.budget)
        with watching_resources(project.model.device) as used:
            result = pruner.prune(cell.budget)
        finetuning, cpu_seconds = self.dense_seconds, measuring + used.cpu_seconds
        if cell.contender.before_finetuning:
            below_head = pruner.calibration.dense.model is not project.model
            whole = put_on(project.model, result.model) if below_head else result.model
            with spending() as spent:
                tuned = self._tuned(replace(project, model=whole), cell.seed)
            cpu_seconds += spent.cpu_seconds
            result = replace(result, model=tuned.model)
            finetuning = float(tuned.facts["seconds"])
        seconds = {**result.facts.seconds, "finetuning": finetuning}
        task_rows = len(self._rows[0]) / pruner.calibration.sequences
        cost = WholeCost(cpu_seconds=cpu_seconds, forward_cpu_seconds=forward.cpu_seconds * task_rows)
        return _outcome(self.dense.judge(result), seconds, used.memory_mb, forward.seconds, cost)

    @cached_property
    def dense(self) -> Project:
        """The fine-tuned model with its rows; fine-tuned here, and kept, where the plan has only a pre-trained one."""
        if self.subject.model is not None:
            folder = model_folder(self.subject.model.place, self.subject.model.revision)
            model = checkpoint.load_model(folder, self.task.auto_class, self.device)
            return self._project(model, folder)
        kept = self._kept
        if read_manifest(kept).get("made_by") != _as_json(self._made_by):
            project, _ = self.before_finetuning(DENSE_SEED)
            tuned = self._tuned(project, DENSE_SEED)
            manifest = {"made_by": self._made_by, "seconds": tuned.facts["seconds"]}
            checkpoint.write(tuned.model, kept, tokenizer=project.tokenizer, manifest=manifest, overwrite=True)
        return self._project(checkpoint.load_model(str(kept), self.task.auto_class, self.device), str(kept))

    @property
    def dense_seconds(self) -> float | None:
        """Seconds of fine-tuning the dense model, which is done now if it was not yet; None where it was given."""
        if self.subject.model is not None:
            return None
        _ = self.dense  # fine-tuned now, if it was not yet
        return float(read_manifest(self._kept)["seconds"])

    def before_finetuning(self, seed: int) -> tuple[Project, list[str]]:
        """Load the pre-trained model with the task's rows, and name its new weights: the head that it lacks."""
        folder = model_folder(self._pretrained.place, self._pretrained.revision)
        model, new_head = load_to_train(folder, self.task, self.device, seed)
        return self._project(model, folder), new_head

    def _project(self, model: PreTrainedModel, folder: str) -> Project:
        train, validation = self._rows
        return Project(
            model,
            checkpoint.load_tokenizer(folder),
            self.task,
            train,
            validation,
            max_length=self.subject.max_length,
            stored_dtype=checkpoint.stored_dtype(folder),
            progress=Stages(self.progress, 0),
        )

    @cached_property
    def _rows(self) -> Any:
        source = self.subject.data.place if self.subject.data else None
        with hub_revision(self.subject.data_revision), naming_columns(self.subject.columns):
            judged = some_rows(self.task.rows(source, "validation"), self.subject.evaluation_rows)
            return self.task.rows(source, "train"), judged

    def _tuned(self, project: Project, seed: int) -> FineTuned:
        options = self.subject.finetuning
        project = project.with_guard(seed) if options.patience else project
        with scratch_folder() as folder:
            return finetune(project, options, folder, seed=seed)

    @property
    def _pretrained(self) -> Source:
        if self.subject.pretrained is None:
            raise CheckpointError(f"{self.subject.label} has no pre-trained model to fine-tune: add pretrained:")
        return self.subject.pretrained

    @cached_property
    def _content(self) -> dict[str, Any]:
        models = {"model": self.subject.model, "pretrained": self.subject.pretrained}
        digests: dict[str, Any] = {name: model_digest(source) if source else None for name, source in models.items()}
        columns = {"columns": dict(self.subject.columns)} if self.subject.columns else {}
        return digests | {"data": data_digest(self.subject.data, self.subject.data_revision)} | columns

    @property
    def _finetuning(self) -> dict[str, Any]:
        return asdict(self.subject.finetuning)

    @property
    def _made_by(self) -> dict[str, Any]:
        return self._content | {"finetuning": self._finetuning, "max_length": self.subject.max_length}

    @property
    def _kept(self) -> Path:
        """Folder where a dense model that is fine-tuned here is kept."""
        return self.folder / f"dense-{self.subject.label}"


def _outcome(
    result: TaskResult,
    seconds: Mapping[str, float | None],
    memory_mb: Mapping[str, float],
    forward_seconds: float,
    cost: WholeCost,
) -> Outcome:
    facts = result.facts.pruning
    return Outcome(
        metrics=result.facts.metrics,
        latency=result.facts.latency,
        budget=facts.budget,
        kept=facts.kept,
        parameters=facts.parameters,
        calibration=facts.calibration,
        warnings=facts.warnings,
        versions=facts.versions,
        units={name: PackedMask.of(mask) for name, mask in result.pruning.masks.items()},
        seconds=seconds,
        memory_mb=memory_mb,
        threads=torch.get_num_threads(),
        forward_seconds=forward_seconds,
        cost=cost,
        machine=Machine.now(result.model.device),
    )


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:CHARACTERS]


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    """Turn a value into what it is when it is read back from JSON."""
    read: dict[str, Any] = json.loads(json.dumps(value))
    return read


def _forward(model: PreTrainedModel, batches: Sequence[Batch]) -> Spent:
    """Time one forward pass over some batches: what costs are compared with."""
    with torch.inference_mode():
        model(**batches[0])
        with spending() as spent:
            for batch in batches:
                model(**batch)
            if device_of_batch(batches[0]).type == "cuda":
                torch.cuda.synchronize()
    return spent
