"""Words and rows of a manifest: shared by the report page, the model card, the terminal and the plots.

Counts (FLOPs, parameters) and measurements (time, metrics) stay apart: a count is never called a speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import PurePath
from typing import Any

from trimformer.judging.manifest import DENSE, PRUNED, Manifest
from trimformer.judging.metrics import LOWER_IS_BETTER, PERPLEXITY, WORDS, Metric, interval, sample, shown
from trimformer.judging.training_facts import TrainingFacts
from trimformer.model.sites import place
from trimformer.observing.latency import Latency
from trimformer.pruning.facts import GuardFacts, PruningFacts
from trimformer.vocabulary.facts import BeforeAfter

COSTS = {
    "flops": "FLOPs of attention and FFN",
    "params": "parameters of attention and FFN",
    "latency": "time of the whole model, added up from measured parts",
    "size": "file of the weights",
}
FILE = "size"
"""Name of the cost that is told with the file's own sizes, not among the shares."""
STAGES = {
    "looking": "a first look at fewer tokens",
    "measuring": "measuring, on the calibration rows",
    "ordering": "turning or ordering heads",
    "pruning": "choosing, cutting and refitting",
    "judging": "judging the pruned model, and timing both",
}
SIZES = {
    "heads": "heads in every layer",
    "query_heads": "query heads in every layer",
    "neurons": "neurons in every layer",
    "sites": "sizes by layer or sublayer",
    "keep_layers": "layers that keep all units",
    "drop_blocks": "blocks without units",
    "drop_sublayers": "sublayers without units",
    "only": "units that may go",
}
"""What sizes are of, by field of `Sizes`."""
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by precision."""


@dataclass(frozen=True)
class Share:
    """A share of the dense model, as text: what was asked for, what the count reached, what was measured."""

    what: str
    detail: str
    asked: str = ""
    reached: str = ""
    measured: str = ""


@dataclass(frozen=True)
class MetricRow:
    """A metric of the dense model and of the pruned one."""

    name: str
    dense: Metric
    pruned: Metric

    @property
    def change(self) -> float:
        """Value of the pruned model minus that of the dense one."""
        return self.pruned.value - self.dense.value

    @property
    def sample(self) -> str:
        """Size of the sample with its unit: `872 rows`."""
        return sample(self.name, self.pruned)


@dataclass(frozen=True)
class Stage:
    """One stage of making a result."""

    key: str
    what: str
    seconds: float
    memory_mb: Mapping[str, float]
    """Peak by place, in MB: `host`, and a GPU where there was one; empty where it was not measured."""


def percent(share: float) -> str:
    """Write a share as percent, with a space that does not break."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def name(facts: Manifest) -> str:
    """Give the dense model's name, without the folder that it is in; `model` where nobody named it."""
    source = facts.origin.source or "model"
    return PurePath(source).name or source


def cost_name(cost: str) -> str:
    """Say in words what a budget is of."""
    return COSTS.get(cost, cost)


def short_cost(cost: str) -> str:
    """Name a cost in one word, for axes and column heads."""
    return cost_name(cost).partition(" of ")[0]


def shares(facts: Manifest) -> list[Share]:
    """List what was asked, reached and measured, one row a quantity."""
    pruning, rows = facts.pruning, []
    for cost, kept in pruning.kept.items():
        if cost != FILE:
            rows.append(Share(cost_name(cost), "", _asked_of(cost, pruning), percent(kept)))
    parameters, times = pruning.parameters, facts.latency
    detail = f"{parameters.dense / 1e6:.2f} M → {parameters.pruned / 1e6:.2f} M"
    rows.append(Share("parameters of the whole model", detail, "", percent(parameters.share)))
    rows += sizes(facts)
    if facts.latency_share is not None:
        detail = f"{times[DENSE].median_ms:.1f} ms → {times[PRUNED].median_ms:.1f} ms a batch"
        rows.append(Share("time", detail, "", "", percent(facts.latency_share)))
    guard = pruning.guard
    if guard is not None:
        rows.append(Share(held(guard), "", f"at most {guard.max_drop:g}", "", lost(guard)))
    return [*rows, *asked_sizes(pruning)]


def _asked_of(cost: str, pruning: PruningFacts) -> str:
    """Say how much of a cost was asked for; nothing where sizes alone decided, or a search."""
    alone = pruning.sizes is not None and pruning.sizes.alone
    is_asked = cost == pruning.budget.cost and pruning.guard is None and not alone
    return f"at most {percent(pruning.budget.asked)}" if is_asked else ""


def held(guard: GuardFacts) -> str:
    """Say what was held, and on what: `drop in f1, 872 guard rows`."""
    return f"drop{f' in {guard.metric}' if guard.metric else ''}, {guard.rows:,} guard rows"


def lost(guard: GuardFacts) -> str:
    """Write the loss on the guard rows with its 95 % interval, where that is known."""
    if guard.low is None or guard.high is None:
        return shown(guard.drop)
    return f"{shown(guard.drop)} (95 % interval {WORDS.format(shown(guard.low), shown(guard.high))})"


def asked_sizes(pruning: PruningFacts) -> list[Share]:
    """List the sizes that were asked for by name, each beside what the model has; none where a budget alone decided."""
    if pruning.sizes is None:
        return []
    asked, rows = pruning.sizes.asked, pruning.units
    heads = _in_runs([row.units["head"].kept for row in rows if "head" in row.units])
    found = {
        "heads": heads,
        "query_heads": heads,
        "neurons": _in_runs([row.units["neuron"].kept for row in rows if "neuron" in row.units]),
        "keep_layers": _listed(row.block for row in rows if all(each.kept == each.of for each in row.units.values())),
        "drop_blocks": _listed(row.block for row in rows if not any(each.kept for each in row.units.values())),
        "drop_sublayers": _listed(".".join(map(str, place(site))) for site in pruning.sizes.dropped),
    }
    return [
        Share(SIZES[name], "", _as_typed(value), found.get(name, "")) for name, value in asked.items() if name in SIZES
    ]


def _as_typed(value: Any) -> str:
    """Write a size as it is typed in a command; of sizes by site, how many there are."""
    if isinstance(value, Mapping):
        return f"{len(value)} {'entries' if len(value) > 1 else 'entry'}"
    return _listed(value) if isinstance(value, (list, tuple)) else str(value)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _in_runs(counts: Sequence[int]) -> str:
    """Write numbers in order, equal neighbours once: `12, 3 × 8` are 12, 8, 8 and 8; one number where all are alike."""
    runs = [(count, len(list(same))) for count, same in groupby(counts)]
    if len(runs) == 1:
        return str(runs[0][0])
    return _listed(
        f"{times}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}{count}" if times > 1 else count for count, times in runs
    )


def file_size(facts: Manifest) -> BeforeAfter | None:
    """Give the bytes of the file of the weights, by the number of parameters where nobody added them up; or None."""
    width = BYTES.get(facts.pruning.dtype)
    if facts.bytes is not None or width is None:
        return facts.bytes
    parameters = facts.pruning.parameters
    return BeforeAfter(before=width * parameters.dense, after=width * parameters.pruned)


def sizes(facts: Manifest) -> list[Share]:
    """List what became of the file of the weights, and of the vocabulary where it was trimmed."""
    rows, size, vocabulary = [], file_size(facts), facts.vocabulary
    if size is not None:
        detail = f"{size.before / 1e6:.1f} MB → {size.after / 1e6:.1f} MB"
        rows.append(Share(COSTS[FILE], detail, _asked_of(FILE, facts.pruning), percent(size.share)))
    if vocabulary is not None:
        tokens = vocabulary.tokens
        rows.append(Share("tokens known", f"{tokens.before:,} → {tokens.after:,}", "", percent(tokens.share)))
    return rows


def metrics(facts: Manifest) -> list[MetricRow]:
    """List the metrics measured on both models; the first is the one that the task is judged by."""
    dense, pruned = (facts.metrics.get(model, {}) for model in (DENSE, PRUNED))
    return [MetricRow(name, dense[name], metric) for name, metric in pruned.items() if name in dense]


def remarks(facts: Manifest) -> list[str]:
    """Say how far the numbers go: what is surely lost, how time was taken, what is only counted."""
    said = [_loss(row, facts) for row in metrics(facts)[:1]]
    if facts.latency:
        time, dense = facts.latency[PRUNED], facts.latency[DENSE]
        said.append(
            f"{timing(time)} Quartiles: dense {dense.low_ms:.1f} to {dense.high_ms:.1f} ms, pruned "
            f"{time.low_ms:.1f} to {time.high_ms:.1f} ms."
        )
    length = facts.pruning.workload.sequence_length
    said.append(f"FLOPs are counted at {length:.1f} tokens; they are not a measure of speed.")
    if facts.vocabulary is not None and facts.vocabulary.held_out is not None:
        held_out = facts.vocabulary.held_out
        said.append(
            f"{held_out.otherwise} of {held_out.texts} evaluation texts split into other tokens than before the "
            f"vocabulary was trimmed: {held_out.tokens.before} tokens became {held_out.tokens.after}, of which "
            f"{held_out.unknown.after} are unknown ({held_out.unknown.before} before)."
        )
    if facts.pruning.already_pruned:
        said.append("The model given had been pruned before: shares are of what was there.")
    return [*said, *_trained(facts)]


def _loss(row: MetricRow, facts: Manifest) -> str:
    """Say whether a metric's change is more than chance makes; row by row, where both models were judged together."""
    drop = facts.lost.get(row.name)
    if drop is None:
        overlap = row.pruned.high >= row.dense.low and row.dense.high >= row.pruned.low
        return f"The {row.name} intervals of both models {'overlap' if overlap else 'do not overlap'}."
    if drop.value < 0:
        drop, change = replace(drop, value=-drop.value, low=-drop.high, high=-drop.low), "better"
    else:
        change = "worse"
    sure = "more than" if drop.low > 0 else "no more than"
    unit = "of its value " if row.name == PERPLEXITY else ""
    return (
        f"Over the same rows the {row.name} is {change} by {shown(drop.value)} {unit}(95 % interval of the difference "
        f"{interval(drop, WORDS)}): {sure} chance may make."
    )


def holds(facts: Manifest) -> bool:
    """Tell whether the judging metric may be as good as the dense model's, by the 95 % interval of the difference.

    Where that is not known, by whether the pruned model's own interval reaches the dense model's value.
    """
    for row in metrics(facts)[:1]:
        if row.name in facts.lost:
            return facts.lost[row.name].low <= 0
        if row.name in LOWER_IS_BETTER:
            return row.pruned.low <= row.dense.value
        return row.pruned.high >= row.dense.value
    return False


def _trained(facts: Manifest) -> list[str]:
    """Say that the model was trained, in which order, and what the original was not judged by."""
    trainings = facts.recipe.trainings if facts.recipe else {}
    stages = [_stage_of(stage, training) for stage, training in trainings.items()]
    if facts.finetuning is None:
        return stages
    new = " and ".join(facts.finetuning.new_head)
    said = f"After it was pruned, the model was fine-tuned on {facts.finetuning.rows:,} rows"
    found, dense = facts.metrics.get(PRUNED, {}), facts.metrics.get(DENSE, {})
    alone = [f"{name} {shown(each.value)} of {sample(name, each)}" for name, each in found.items() if name not in dense]
    judged = [f"Then it has {', '.join(alone)}; the original was not judged by that."] if alone else []
    return [*stages, f"{said}; {new} started from random numbers." if new else f"{said}.", *judged]


def _stage_of(stage: str, training: TrainingFacts) -> str:
    """Say how long a stage of a method that trains was, and on how many rows."""
    epochs = "" if training.epochs is None else f", {training.epochs:.3g} epochs"
    return f"Training, stage {stage}: {training.rows:,} rows{epochs}, steps: {training.steps:,}."


def timing(time: Latency) -> str:
    """Say how a time was taken."""
    threads = f"{time.threads} thread{'s' if time.threads != 1 else ''}"
    return (
        f"Time is the median of {time.runs} forward passes on {time.device} ({threads}), "
        f"{time.rows} rows × {time.length} tokens, the models in turn."
    )


def stages(facts: Manifest) -> list[Stage]:
    """List what was done, in order, with its time and memory."""
    memory = facts.pruning.memory_mb
    return [
        Stage(stage, STAGES.get(stage, stage), seconds, memory.get(stage, {}))
        for stage, seconds in facts.pruning.seconds.items()
    ]


def settings(facts: Manifest) -> list[tuple[str, str]]:
    """List what the result depends on, in the order in which a person asks."""
    pruning, origin, calibration = facts.pruning, facts.origin.shared, facts.pruning.calibration
    tokens = f"{calibration.tokens:,} tokens in {calibration.sequences:,} rows, fingerprint {calibration.fingerprint}"
    options = ", ".join(f"{name}={value}" for name, value in pruning.options.items())
    rows = [
        ("model", origin.source),
        ("task", origin.task),
        ("data", origin.data),
        ("vocabulary", facts.vocabulary.texts if facts.vocabulary else ""),
        ("method", f"{pruning.method}: {options}" if options else pruning.method),
        ("training rows" if facts.recipe else "calibration", tokens),
        ("seed", str(calibration.seed)),
        ("versions", versions_text(pruning.versions)),
    ]
    return [(what, value) for what, value in rows if value]


def versions_text(versions: Mapping[str, str]) -> str:
    """Write versions in one line."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def each_once(warnings: Iterable[Sequence[str]]) -> list[str]:
    """List every warning of several results, once."""
    return list(dict.fromkeys(warning for result in warnings for warning in result))
