"""The record of a result: one section from every stage that it went through, written once, and its JSON form.

The manifest of a checkpoint (`trimformer.json`) is this record as JSON: the facts of the model, those of its origin
and those of every judgement stand side by side at its top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_type_hints

from trimformer.errors import DataError
from trimformer.judging.metrics import Metrics
from trimformer.judging.names import shared_name
from trimformer.judging.training_facts import FineTuningFacts, RecipeFacts
from trimformer.model.manifest import checked, plain, read
from trimformer.observing.latency import Latency
from trimformer.pruning.facts import PruningFacts
from trimformer.vocabulary.facts import BeforeAfter, VocabularyFacts

DENSE, PRUNED, FINETUNED = "dense", "pruned", "finetuned"
"""Names of the models that metrics and times are of: as given, pruned (perhaps fine-tuned then), only fine-tuned."""
SITE_PARTS = 3
"""Fewest parts of a site's name: where the blocks are, a block's number, a sublayer."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of a result, as the user named it; a field that nobody named is empty."""

    source: str = ""
    """Folder or hub name of the dense model."""
    task: str = ""
    data: str = ""
    """Folder or file of the rows, or a word for where they come from, such as `hub`."""
    command: str = ""
    """Command line that can be typed again, without tokens and passwords."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What the columns of the rows are called, by the name that the task knows; empty where they are called so."""

    @property
    def shared(self) -> Origin:
        """The same as others may see it, without absolute paths; of the command, whoever words it takes care."""
        return replace(self, source=shared_name(self.source), data=shared_name(self.data))

    def as_json(self) -> dict[str, Any]:
        """Write the fields that somebody named, by name, as others may see them."""
        return {each.name: value for each in fields(self) if (value := getattr(self.shared, each.name))}

    @classmethod
    def from_json(cls, value: Any, where: str = "") -> Origin:
        """Read what `as_json` wrote; other keys are left alone, and null counts as not named.

        Raises:
            DataError: a field is something else than a text; names it.
        """
        content, types = checked(dict, value, where), get_type_hints(cls)
        return cls(
            **{name: read(kind, content[name], name) for name, kind in types.items() if content.get(name) is not None}
        )


@dataclass(frozen=True, kw_only=True)
class DenseFacts:
    """The facts of a model that was not pruned: hardly anything is known of it."""

    model_class: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record of a result: facts of its model, metrics, times, origin and fine-tuning."""

    model: PruningFacts | DenseFacts
    new_head: tuple[str, ...] | None = None
    """Names of weights above a pruned pre-trained model that start from random numbers; None where nobody asked."""
    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    """Metrics by model: of `DENSE`, and of `PRUNED` or `FINETUNED`; empty where nothing was judged."""
    lost: Metrics = field(default_factory=dict)
    """By metric, how much worse the pruned model is on the same rows, with the interval of that difference."""
    latency: Mapping[str, Latency] = field(default_factory=dict)
    """Measured time by model, of `DENSE` and `PRUNED`; empty where nothing was timed."""
    origin: Origin = field(default_factory=Origin)
    finetuning: FineTuningFacts | None = None
    recipe: RecipeFacts | None = None
    """What a method that trains did; None of others."""
    vocabulary: VocabularyFacts | None = None
    """What was trimmed of the vocabulary; None where nothing was."""
    bytes: BeforeAfter | None = None
    """Size of the weights as stored, of the dense model and of this one; None where nobody asked."""

    @property
    def pruning(self) -> PruningFacts:
        """The facts of the pruned model.

        Raises:
            DataError: the model was not pruned.
        """
        if isinstance(self.model, PruningFacts):
            return self.model
        raise DataError("budget is missing: nothing was pruned")

    @property
    def is_pruned(self) -> bool:
        """Whether the model was pruned."""
        return isinstance(self.model, PruningFacts)

    @property
    def latency_share(self) -> float | None:
        """Measured time of the pruned model as a share of the dense one's; None where nothing was timed."""
        return latency_share(self.latency)

    def as_json(self) -> dict[str, Any]:
        """Write all sections as plain JSON; those of what was not done are left out."""
        done: dict[str, Any] = {
            "new_head": self.new_head,
            "metrics": self.metrics or None,
            "lost": self.lost or None,
            "latency": self.latency or None,
            "vocabulary": self.vocabulary,
            "bytes": self.bytes,
            "recipe": self.recipe,
        }
        facts: dict[str, Any] = plain(self.model) | plain(
            {name: each for name, each in done.items() if each is not None}
        )
        return facts | self.origin.as_json() | ({"finetuning": plain(self.finetuning)} if self.finetuning else {})

    @classmethod
    def from_json(cls, value: Any, where: str = "") -> Manifest:
        """Read and check what `as_json` wrote.

        Raises:
            DataError: damaged, or not of this version; names what is missing or wrong.
        """
        content = checked(dict, value, where)
        found = cls(
            model=read(PruningFacts if "budget" in content else DenseFacts, content, where),
            new_head=read(tuple[str, ...] | None, content.get("new_head"), "new_head"),
            metrics=read(Mapping[str, Metrics], content.get("metrics", {}), "metrics"),
            lost=read(Metrics, content.get("lost", {}), "lost"),
            latency=read(Mapping[str, Latency], content.get("latency", {}), "latency"),
            origin=Origin.from_json(content, where),
            finetuning=read(FineTuningFacts | None, content.get("finetuning"), "finetuning"),
            recipe=read(RecipeFacts | None, content.get("recipe"), "recipe"),
            vocabulary=read(VocabularyFacts | None, content.get("vocabulary"), "vocabulary"),
            bytes=read(BeforeAfter | None, content.get("bytes"), "bytes"),
        )
        if found.latency and not {DENSE, PRUNED} <= found.latency.keys():
            raise DataError(f"latency has {', '.join(found.latency)}, not {DENSE} and {PRUNED}")
        if isinstance(found.model, PruningFacts):
            _check_whole(found.model)
        return found


def _check_whole(facts: PruningFacts) -> None:
    """Refuse facts whose parts do not fit each other.

    Raises:
        DataError: a part is missing, or a site is in no block; names it.
    """
    needed = {"kept": (facts.kept, {"flops", facts.budget.cost}), "seconds": (facts.seconds, {"measuring"})}
    for name, (entries, keys) in needed.items():
        if not keys <= entries.keys():
            raise DataError(f"{name}.{min(keys - entries.keys())} is missing")
    blocks = {str(row.block) for row in facts.units}
    for site in (*facts.patterns, *facts.curves):
        parts = site.split(".")
        if len(parts) < SITE_PARTS or parts[-2] not in blocks:
            raise DataError(f"{site!r} is no sublayer of a block in units")


def latency_share(latency: Mapping[str, Latency]) -> float | None:
    """Divide the pruned model's measured median time by the dense one's; None where nothing was timed."""
    return latency[PRUNED].median_ms / latency[DENSE].median_ms if latency else None


def speedup(latency: Mapping[str, Latency]) -> float | None:
    """Divide the dense model's measured median time by the pruned one's; None where nothing was timed."""
    return latency[DENSE].median_ms / latency[PRUNED].median_ms if latency else None
