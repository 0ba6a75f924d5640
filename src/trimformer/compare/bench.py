"""One task of a comparison at work: its models, loaded or fine-tuned once, and the cells run on them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from trimformer import plugins
from trimformer.compare.plan import Cell, Contender, Source, Subject
from trimformer.compare.rows import Outcome, PackedMask, Row
from trimformer.compare.sources import data_digest, model_digest
from trimformer.data.batches import device_of_batch
from trimformer.data.columns import naming_columns
from trimformer.data.hub import hub_revision, model_folder
from trimformer.errors import CheckpointError, TrimformerError
from trimformer.judging.names import shared_text
from trimformer.judging.project import Project
from trimformer.judging.task import Task
from trimformer.model import checkpoint, placement
from trimformer.model.claims import scratch_folder
from trimformer.model.manifest import read_manifest, versions
from trimformer.model.sites import Masks
from trimformer.observing.resources import watching_resources
from trimformer.progress import Progress, Stages
from trimformer.pruning.method_options import asked_by
from trimformer.pruning.pruner import Pruner
from trimformer.training.finetune import FineTuned, finetune
from trimformer.training.heads import load_to_train, put_on

DENSE_SEED = 0
"""Seed of a dense model's fine-tuning: all seeds of a comparison prune the same one."""
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
        return _as_json(
            {
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
        project, pruner = self._pruner(cells[0].contender, cells[0].seed)
        forward = _forward_seconds(pruner)
        for cell in cells:
            about = (cell.subject.label, cell.contender.label, self.identity(cell))
            try:
                yield Row(*about, self._outcome(cell, project, pruner, forward))
            except TrimformerError as error:
                yield Row(*about, None, shared_text(str(error)))

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
            rows = project.drawn(contender.calibration_tokens, seed, labels=labels)
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

    def _outcome(self, cell: Cell, project: Project, pruner: Pruner, forward_seconds: float) -> Outcome:
        with watching_resources(project.model.device) as used:
            result = pruner.prune(cell.budget)
        finetuning = self.dense_seconds
        if cell.contender.before_finetuning:
            below_head = pruner.calibration.dense.model is not project.model
            whole = put_on(project.model, result.model) if below_head else result.model
            tuned = self._tuned(replace(project, model=whole), cell.seed)
            result = replace(result, model=tuned.model)
            finetuning = float(tuned.facts["seconds"])
        seconds = {**result.facts.seconds, "finetuning": finetuning}
        judged = self.dense.judge(result).facts
        facts = judged.pruning
        return Outcome(
            metrics=judged.metrics,
            latency=judged.latency,
            budget=facts.budget,
            kept=facts.kept,
            parameters=facts.parameters,
            calibration=facts.calibration,
            warnings=facts.warnings,
            versions=facts.versions,
            units=packed(result.masks),
            seconds=seconds,
            memory_mb=used.memory_mb,
            threads=torch.get_num_threads(),
            forward_seconds=forward_seconds,
        )

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
            return self.task.rows(source, "train"), self.task.rows(source, "validation")

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


def packed(masks: Masks) -> dict[str, PackedMask]:
    """Write masks in few characters, by site; the opposite of `findings.unpacked`."""
    return {
        name: PackedMask(units=len(mask), kept=np.packbits(mask.cpu().numpy()).tobytes().hex())
        for name, mask in masks.items()
    }


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    """Turn a value into what it is when it is read back from JSON."""
    read: dict[str, Any] = json.loads(json.dumps(value))
    return read


def _forward_seconds(pruner: Pruner) -> float:
    """Time one forward pass over the calibration rows, in seconds: what the cost of pruning is compared with."""
    model, batches = pruner.calibration.dense.model, pruner.calibration.batches
    with torch.inference_mode():
        model(**batches[0])
        start = perf_counter()
        for batch in batches:
            model(**batch)
        if device_of_batch(batches[0]).type == "cuda":
            torch.cuda.synchronize()
    return perf_counter() - start
