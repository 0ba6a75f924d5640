"""A fine-tuning run of the command line: it can be interrupted and resumed, and its result appears whole or not at all.

What is not finished lies in a folder beside the output folder: `run.json` with what the run was asked for, the
Trainer's checkpoints, and the pruned model where pruning comes first. It goes away when the run is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from trimformer import processes
from trimformer.cli import console, steps
from trimformer.cli.options import assignments
from trimformer.cli.training_run import TrainingRun
from trimformer.cli.unfinished import JOURNAL, PRUNED
from trimformer.cli.workplace import workplace
from trimformer.errors import InvalidOption
from trimformer.judging import manifest
from trimformer.judging.manifest import Manifest
from trimformer.judging.metrics import Metrics
from trimformer.judging.project import Project
from trimformer.judging.statistics import paired_drops
from trimformer.judging.training_facts import FineTuningFacts
from trimformer.model import checkpoint
from trimformer.model.manifest import plain, read, read_manifest
from trimformer.model.sentence_files import sentence_transformers_files
from trimformer.progress import Progress
from trimformer.pruning.budget import Budget
from trimformer.pruning.facts import PruningFacts
from trimformer.pruning.journal import Journal
from trimformer.report import saving, terminal
from trimformer.training.finetune import FineTuning, finetune, judge, training_features
from trimformer.training.p_pruning import prune_pretrained
from trimformer.training.step_time import step_times

DENSE = "dense"
ROWS_TO_CHECK = 8


@dataclass(frozen=True, kw_only=True)
class Run(TrainingRun):
    """A fine-tuning run as it was asked for: the model, the rows, and how to train.

    Raises:
        InvalidOption: several processes, or `dense_too` without `dense`.
    """

    options: FineTuning
    dense: str | None = None
    """Folder or hub name of the dense model to compare with; None compares with none."""
    dense_too: bool = False
    """Whether that one is fine-tuned as well, and not only some of its steps timed."""
    pruning: Mapping[str, Any] = field(default_factory=dict)
    """Options of the pruning that comes first; empty where there is none."""

    def __post_init__(self) -> None:
        if processes.count() > 1:
            raise InvalidOption("fine-tuning works in one process: start it without torchrun")
        if self.dense_too and self.dense is None:
            raise InvalidOption("`dense_too` needs to know the dense model: name it as `dense`")


def tuning(train: Sequence[str] | None) -> FineTuning:
    """Read options of fine-tuning from the command line's `--train name=value`.

    Raises:
        InvalidOption: no assignment, an unknown name, or a value of the wrong type or range.
    """
    return FineTuning.from_text(assignments(train, "--train", "learning_rate=1e-4"))


@dataclass(frozen=True)
class Completed:
    """The result of a run: a model and everything known of it."""

    model: PreTrainedModel
    facts: Manifest
    tuning: FineTuningFacts


def complete(run: Run, folder: Path, *, resume: bool, progress: Progress) -> Completed:
    """Prune if asked, fine-tune, judge, and compare.

    Raises:
        TrimformerError: wrong options or rows, or a model that does not fit the task.
    """
    project, new = _project(run, run.model, progress)
    if new:
        console.say(f"{run.model} gets a new head for {run.task}: {', '.join(new)} start from random numbers …")
    small = project
    if run.pruning:
        _prune_once(run, project, new, folder / PRUNED)
        small, _ = _project(run, str(folder / PRUNED), progress)
    trained = _train(run, small, folder, resume=resume)
    earlier = _earlier(folder / PRUNED if run.pruning else run.model, trained.model, judged_alike=not new)
    facts: dict[str, Any] = {"new_head": new, "before": plain(earlier.metrics.get(manifest.PRUNED))} | trained.facts
    dense_metrics = earlier.metrics.get(manifest.DENSE, {})
    if run.dense:
        dense, _ = _project(run, run.dense, progress)
        times = step_times(small, {"dense": dense.model, "finetuned": small.model}, run.options, seed=run.seed)
        facts["step"] = plain(times)
        if run.dense_too:
            trained_dense = _train(run, dense, folder / DENSE, resume=resume)
            facts["dense"], dense_metrics = trained_dense.facts, trained_dense.metrics
    tuning: FineTuningFacts = read(FineTuningFacts, facts, "finetuning")
    own = manifest.PRUNED if isinstance(earlier.model, PruningFacts) else manifest.FINETUNED
    known = replace(
        earlier,
        model=replace(earlier.model, model_class=type(trained.model).__name__),
        metrics={manifest.DENSE: dense_metrics, own: trained.metrics},
        lost=paired_drops(dense_metrics, trained.metrics),
        origin=replace(project.origin, source=earlier.origin.source or run.model),
        finetuning=tuning,
    )
    return Completed(trained.model, known, tuning)


def _earlier(folder: str | Path, model: PreTrainedModel, *, judged_alike: bool) -> Manifest:
    """Read what is known of the model before its training: hardly anything where it was not pruned.

    Metrics of a head that gave way to a new one are of something else, and are left out.
    """
    known = Manifest.from_json({"model_class": type(model).__name__} | read_manifest(folder))
    return known if judged_alike else replace(known, metrics={})


def carry_out(run: Run, *, resume: bool, overwrite: bool) -> Completed:
    """Do a whole run, with progress on stderr; the checkpoint is written last.

    Raises:
        TrimformerError: as `workplace` and `complete`.
    """
    with console.progress_bars(console.error_console) as progress, workplace(run, resume=resume) as folder:
        trained = complete(run, folder, resume=resume, progress=progress)
        save_finetuned(run, trained, overwrite=overwrite)
    return trained


def report_finetuned(run: Run, trained: Completed, *, as_json: bool) -> None:
    """Print a saved result: what was reached, and how to load it; or the manifest."""
    facts = trained.facts
    if run.pruning:
        console.warn(facts.pruning.warnings)
    if as_json:
        steps.print_json(facts.as_json() | {"out": str(run.out)})
        return
    console.out_console.print(terminal.finetuning_table(facts, trained.tuning))
    if isinstance(facts.model, PruningFacts):
        console.out_console.print(terminal.units_table(facts.model.units))
    steps.tell_checkpoint(facts, run.out)


def save_finetuned(run: Run, trained: Completed, *, overwrite: bool) -> None:
    """Write the fine-tuned model with its manifest, in the precision and with the extra files of its source."""
    saving.save(
        trained.model,
        run.out,
        tokenizer=checkpoint.load_tokenizer(run.model),
        manifest=trained.facts.as_json(),
        overwrite=overwrite,
        dtype=checkpoint.stored_dtype(run.model),
        extra_files=sentence_transformers_files(run.model) if _is_encoder(trained) else None,
    )


def _project(run: Run, name: str, progress: Progress) -> tuple[Project, list[str]]:
    """Load a checkpoint and the rows, some of which are set aside where the best epoch is to be chosen."""
    project, new = run.project(name, progress)
    return (project.with_guard(run.seed) if run.options.patience else project), new


def _prune_once(run: Run, project: Project, new: list[str], folder: Path) -> None:
    """Prune and save, unless an interrupted run did so. Rows that cannot be trained on are refused before."""
    if folder.exists():
        return
    some = min(run.options.rows or ROWS_TO_CHECK, ROWS_TO_CHECK)
    training_features(project, replace(run.options, rows=some), run.seed)
    options = dict(run.pruning)
    budget, journal = Budget(**options.pop("budget")), Journal(folder.with_name(JOURNAL), console.say)
    result = prune_pretrained(project, budget, new_head=new, journal=journal, **options)
    saving.save(result.model, folder, tokenizer=project.tokenizer, manifest=result.manifest)


@dataclass(frozen=True)
class _Trained:
    model: PreTrainedModel
    facts: dict[str, Any]
    metrics: Metrics


def _train(run: Run, project: Project, folder: Path, *, resume: bool) -> _Trained:
    trained = finetune(project, run.options, folder, seed=run.seed, resume=resume, say=console.say)
    checkpoint.round_weights(trained.model, project.stored_dtype)
    return _Trained(trained.model, trained.facts, judge(project, trained.model, project.evaluation_rows))


def _is_encoder(trained: Completed) -> bool:
    """Tell whether the model has no head, as a sentence-transformers model."""
    return trained.model.base_model is trained.model
