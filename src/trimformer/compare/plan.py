"""The plan of a comparison: tasks, methods, budgets and seeds of a file, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from trimformer import plugins
from trimformer.compare.published import Published, read_published
from trimformer.compare.settings import Section, read_settings
from trimformer.data.demo import demo_model
from trimformer.errors import InvalidOption, unknown_name
from trimformer.model.parameters import Parameter
from trimformer.pruning.budget import Budget
from trimformer.pruning.method_options import make_plugin
from trimformer.pruning.parameters import (
    CALIBRATION_TOKENS,
    EVALUATION_ROWS,
    FIXED_TOKENS,
    MAX_LENGTH,
    ROUND_TO,
    SEED,
    SEQUENCE_LENGTH,
    share,
)
from trimformer.training.finetune import FineTuning

FILE_KEYS = (
    "title",
    "tasks",
    "methods",
    "budgets",
    "seeds",
    "calibration_tokens",
    "round_to",
    "device",
    "finetune",
    "published",
)
TASK_KEYS = (
    "task",
    "model",
    "revision",
    "pretrained",
    "pretrained_revision",
    "data",
    "data_revision",
    "columns",
    "evaluation_rows",
    "max_length",
    "sequence_length",
    "finetune",
)
METHOD_KEYS = ("method", "options", "vary", "calibration_tokens", "prune", "seeds", "train")
TOKENS = replace(CALIBRATION_TOKENS, default=FIXED_TOKENS, words=())
"""Calibration tokens of a comparison: a number, so that the rows do not depend on the machine."""
ROUNDING = replace(ROUND_TO, default=1)
"""Multiples of neurons that stay in a comparison: any number of them, as the papers have it."""
DEMO = "demo"
"""Name of the model that the extra `demo` installs."""
STAGES = ("finetuned", "pretrained")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder or file, or a hub name with its revision."""

    name: str
    local: bool
    revision: str | None = None
    where: str = field(default="", compare=False)
    """File and line that name it."""

    @property
    def place(self) -> str:
        """The name as it can be opened: itself, or where it is `demo` the folder of the demo's model."""
        return demo_model() if self.name == DEMO else self.name

    def check(self) -> None:
        """Refuse a folder or file that is not there.

        Raises:
            InvalidOption: names the line.
        """
        if self.local and not Path(self.place).exists():
            raise InvalidOption(f"{self.where}: there is no {self.name}; check the path")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A task of the comparison, with its rows and its models."""

    label: str
    task: str
    model: Source | None
    """The fine-tuned model; None where it is made by fine-tuning `pretrained`."""
    pretrained: Source | None
    data: Source | None
    """Folder or file of the rows; None for the task's rows on the hub, at `data_revision`."""
    data_revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """What the columns of the rows are called, by the name that the task knows."""
    evaluation_rows: int | None = None
    max_length: int | None = None
    sequence_length: float | None = None
    finetuning: FineTuning = field(default_factory=FineTuning)
    where: str = field(default="", compare=False)
    """File and line that name it."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A method, or a recipe that trains, with all of its options, and which model it prunes."""

    label: str
    method: str
    options: Mapping[str, Any]
    calibration_tokens: int
    seeds: tuple[int, ...]
    before_finetuning: bool = False
    """Whether the pre-trained model is pruned, and what is left fine-tuned, in place of the fine-tuned model."""
    training: FineTuning | None = None
    """Rows and training arguments of a recipe, over its own; None of a method, which does not train."""
    varied: tuple[str, str, float] | None = None
    """Label of the contender that this one varies, with the option and its value; None where it is no variation."""

    @property
    def folder(self) -> Literal["methods", "recipes"]:
        """Plug-in folder that has it."""
        return "methods" if self.training is None else "recipes"

    @property
    def needs_pretrained(self) -> bool:
        """Whether it starts from the pre-trained model."""
        starts = getattr(plugins.load(self.folder, self.method), "starts_from", STAGES[0])
        return self.before_finetuning or starts == STAGES[1]


@dataclass(frozen=True)
class Cell:
    """One run of a comparison: a method on a task, at one size, with one seed."""

    subject: Subject
    contender: Contender
    budget: Budget
    seed: int

    @property
    def key(self) -> tuple[str, str, str, float, int]:
        """Labels, cost, share and seed, which tell it from the other cells of its comparison."""
        return self.subject.label, self.contender.label, self.budget.cost, self.budget.keep_fraction, self.seed


@dataclass(frozen=True)
class Plan:
    """A compare file, read and checked."""

    title: str
    subjects: tuple[Subject, ...]
    contenders: tuple[Contender, ...]
    budgets: tuple[Budget, ...]
    device: str
    published: tuple[Published, ...]

    def cells(self) -> Iterator[Cell]:
        """Go through all cells, task by task; cells that differ in their budget only come together."""
        for subject in self.subjects:
            for contender in self.contenders:
                for seed in contender.seeds:
                    for budget in self.budgets:
                        yield Cell(subject, contender, budget, seed)


def read_plan(file: Path) -> Plan:
    """Read and check a compare file; paths in it are relative to it.

    Raises:
        InvalidOption: whatever is wrong, with its line and what would be right.
    """
    top = read_settings(file).only(*FILE_KEYS)
    for needed in ("tasks", "methods", "budgets"):
        if not top.get(needed):
            raise InvalidOption(f"{file} has no {needed}: add `{needed}:`, see docs/compare.md")
    tasks, methods = top.section("tasks"), top.section("methods")
    plan = Plan(
        title=top.text("title", file.stem) or file.stem,
        subjects=tuple(_subject(tasks, label, top, file.parent) for label in tasks),
        contenders=tuple(contender for label in methods for contender in _contenders(methods, label, top)),
        budgets=tuple(_budgets(top)),
        device=top.text("device", "auto") or "auto",
        published=tuple(_published(top, file.parent)),
    )
    _check_models(plan, tasks, methods)
    return plan


def _subject(tasks: Section, label: str, top: Section, folder: Path) -> Subject:
    entry = tasks.section(label).only(*TASK_KEYS)
    columns = entry.section("columns")
    task = entry.text("task", label) or label
    with entry.about("task") if "task" in entry else tasks.about(label):
        plugins.load("tasks", task)
    return Subject(
        label=label,
        task=task,
        model=_source(entry, "model", "revision", folder),
        pretrained=_source(entry, "pretrained", "pretrained_revision", folder),
        data=_source(entry, "data", "data_revision", folder),
        data_revision=entry.text("data_revision"),
        columns={name: columns.text(name) or name for name in columns},
        evaluation_rows=_parameter(entry, EVALUATION_ROWS),
        max_length=_parameter(entry, MAX_LENGTH),
        sequence_length=_parameter(entry, SEQUENCE_LENGTH),
        finetuning=_finetuning(top, entry),
        where=tasks.at(label),
    )


def _parameter(entry: Section, parameter: Parameter, default: Any = None) -> Any:
    """Read a parameter, checked as everywhere, or give the default where nothing is said."""
    with entry.about(parameter.name) if parameter.name in entry else nullcontext():
        value = parameter.check(entry.get(parameter.name))
    return default if value is None else value


def _source(entry: Section, key: str, revision: str, folder: Path) -> Source | None:
    """Read a source: a place relative to the file if there is one, or the name can be nothing else; else a hub name."""
    name = entry.text(key)
    if name is None:
        return None
    path = (folder / Path(name).expanduser()).resolve()
    local = path.exists() or key == "data" or name.startswith((".", "/", "~"))
    place = str(path) if local and name != DEMO else name
    return Source(name=place, local=local or name == DEMO, revision=entry.text(revision), where=entry.at(key))


def _finetuning(top: Section, entry: Section) -> FineTuning:
    """Read options of fine-tuning: those of the task, over those of the whole file."""
    given = {**top.section("finetune").plain(), **entry.section("finetune").plain()}
    where = entry if "finetune" in entry else top
    if not given:
        return FineTuning()
    with where.about("finetune"):
        return FineTuning.from_text(given)


def _contenders(methods: Section, label: str, top: Section) -> Iterator[Contender]:
    entry = methods.section(label).only(*METHOD_KEYS)
    method = entry.text("method", label) or label
    given = entry.section("options").plain()
    with entry.about("method") if "method" in entry else methods.about(label):
        folder = _folder(method)
    training = _training(entry, folder)
    stage = entry.text("prune", STAGES[0])
    if stage not in STAGES:
        raise InvalidOption(f"{entry.at('prune')}: `prune={stage!r}` must be one of {', '.join(STAGES)}")
    if training and "prune" in entry:
        raise InvalidOption(f"{entry.at('prune')}: {method} knows which model it starts from: leave out prune:")
    if stage == "pretrained" and plugins.load("methods", method).needs_labels:
        raise InvalidOption(f"{entry.at('prune')}: {method} needs a fine-tuned model and labels: leave out prune:")
    with entry.about("options") if given else methods.about(label):
        options = asdict(make_plugin(folder, method, given))
    everywhere = _parameter(top, TOKENS, TOKENS.default)
    contender = Contender(
        label=label,
        method=method,
        options=options,
        calibration_tokens=_parameter(entry, TOKENS, everywhere),
        seeds=tuple(_seeds(entry, _seeds(top, [0]))),
        before_finetuning=stage == "pretrained",
        training=training,
    )
    yield contender
    varied = entry.section("vary")
    for option in varied:
        for value in varied.values_of(option):
            with varied.about(option):
                changed = asdict(make_plugin(folder, method, {**given, option: value}))
                varied_label = f"{label} {option}={value:g}"
                yield replace(contender, label=varied_label, options=changed, varied=(label, option, float(value)))


def _folder(method: str) -> Literal["methods", "recipes"]:
    """Find the plug-in folder that has a method.

    Raises:
        InvalidOption: neither has it; lists those that exist.
    """
    known = dict.fromkeys(plugins.names("methods"), "methods") | dict.fromkeys(plugins.names("recipes"), "recipes")
    if method not in known:
        raise unknown_name("method", method, known)
    return "recipes" if known[method] == "recipes" else "methods"


def _training(entry: Section, folder: str) -> FineTuning | None:
    """Read rows and training arguments of a recipe, which trains to the end unless `patience` is given."""
    if folder == "methods":
        if "train" in entry:
            raise InvalidOption(
                f"{entry.at('train')}: only what trains takes train: — {', '.join(plugins.names('recipes'))}"
            )
        return None
    given = {name: str(value) for name, value in entry.section("train").plain().items()}
    with entry.about("train") if given else nullcontext():
        return FineTuning.from_text({"patience": "0", **given})


def _budgets(top: Section) -> Iterator[Budget]:
    round_to = _parameter(top, ROUNDING, ROUNDING.default)
    by_cost = top["budgets"] if isinstance(top["budgets"], Section) else Section(top.place, [])
    if not by_cost:
        with top.about("budgets"):
            yield from (Budget(flops=each, round_to=round_to) for each in top.values_of("budgets", read=share))
    for cost in by_cost.only("flops", "params", "latency"):
        with by_cost.about(cost):
            yield from (Budget.of(cost, each, round_to=round_to) for each in by_cost.values_of(cost, read=share))


def _seeds(section: Section, default: list[int]) -> list[int]:
    if "seeds" not in section:
        return default
    with section.about("seeds"):
        return [SEED.check(seed) for seed in section.values_of("seeds")]


def _published(top: Section, folder: Path) -> Iterator[Published]:
    for name in top.values_of("published"):
        with top.about("published"):
            yield read_published(folder / str(name))


def _check_models(plan: Plan, tasks: Section, methods: Section) -> None:
    """Refuse equal labels, and a task without a model to prune or (needed where pruning comes first) to fine-tune."""
    early = [contender.label for contender in plan.contenders if contender.needs_pretrained]
    for subject in plan.subjects:
        if subject.model is None and subject.pretrained is None:
            raise InvalidOption(f"{tasks.at(subject.label)}: {subject.label} needs a model: or a pretrained:")
        if early and subject.pretrained is None:
            raise InvalidOption(
                f"{tasks.at(subject.label)}: {subject.label} needs a pretrained: model, because {early[0]} "
                f"({methods.at(early[0])}) prunes before fine-tuning"
            )
    labels = [contender.label for contender in plan.contenders]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise InvalidOption(f"the method {twice[0]!r} is there twice: leave one out, or rename it")
