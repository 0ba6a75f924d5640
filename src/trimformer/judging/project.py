"""Pruning for a task: calibrate on its training rows, judge before and after on rows kept apart, time both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer import plugins
from trimformer.data.batches import sample_rows
from trimformer.data.columns import naming_columns, select_rows
from trimformer.data.files import some_rows
from trimformer.data.labels import in_model_order
from trimformer.data.rows import Features, choices, content, token_count
from trimformer.errors import DataError, LabelError, caution
from trimformer.judging.manifest import DENSE, PRUNED, Manifest, Origin
from trimformer.judging.metrics import PERPLEXITY, Metrics
from trimformer.judging.result import TaskResult, collapse, few_rows, other_tokens
from trimformer.judging.statistics import paired_drops
from trimformer.judging.task import Task, fitted_to
from trimformer.model.checkpoint import round_weights
from trimformer.model.limits import fitted
from trimformer.model.offload import device_of
from trimformer.model.weights import weight_bytes
from trimformer.observing import latency
from trimformer.observing.resources import watching_resources
from trimformer.progress import Progress, Stages, staged
from trimformer.pruning.budget import Budget, stored_in
from trimformer.pruning.cache import MeasuredCache
from trimformer.pruning.facts import ParameterFacts
from trimformer.pruning.journal import Journal
from trimformer.pruning.method_options import asked_by
from trimformer.pruning.parameters import (
    AUTO,
    DEFAULT_METHOD,
    DEFAULT_MINUTES,
    EVALUATION_ROWS,
    MOST_TOKENS,
    check_parameters,
)
from trimformer.pruning.preparation import shorter
from trimformer.pruning.pruner import Pruner
from trimformer.pruning.result import PruningResult
from trimformer.pruning.sizes import Sizes
from trimformer.vocabulary.facts import BeforeAfter, VocabularyFacts

ENCODE_ROWS = 2048
GUARD_ROWS = 1000
STAGES = 4
"""Stages of a project's one result: judging the dense model, measuring, pruning, judging the pruned model."""


@dataclass(frozen=True)
class Project:
    """A model, a task, and rows that are kept apart: those to calibrate on and those to judge by.

    Calibration rows whose tokens equal those of an evaluation row are left out.

    Args:
        model: fine-tuned for the task; stays as it is.
        tokenizer: of the model; held to rows that the model reads.
        task: how rows are encoded and a model is judged, such as `plugins.load("tasks", "sst2")`.
        calibration_rows: rows to prune by; their labels are looked at only for a method that needs them.
        evaluation_rows: rows that the metrics are measured on, before and after.
        max_length: cut rows at this many tokens; else at the task's own length.
        guard_rows: rows to choose a size by (`with_guard`), apart from both others.
        stored_dtype: precision in which the pruned model will be saved.
        progress: False shows no bars, True always does, None on a terminal and in a notebook; or a function that wraps
            a sequence to show a bar.
        origin: names of the model, task and data, to be told with every result.
        vocabulary: what was trimmed of it, see `vocabulary.with_vocabulary`; None where nothing was.
        given: metrics of the model before its vocabulary was trimmed; None measures those of the model.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    calibration_rows: Dataset
    evaluation_rows: Dataset
    max_length: int | None = None
    guard_rows: Dataset | None = None
    stored_dtype: torch.dtype = torch.float32
    progress: Progress | bool | None = None
    origin: Origin = field(default_factory=Origin)
    vocabulary: VocabularyFacts | None = None
    given: Metrics | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokenizer", fitted(self.tokenizer, self.model))
        object.__setattr__(self, "task", fitted_to(self.task, self.model.config))
        object.__setattr__(self, "progress", staged(self.progress, STAGES))

    @property
    def stages(self) -> Stages:
        """Shows progress, with the number of the stage."""
        return staged(self.progress, STAGES)

    def pruner(
        self,
        *,
        method: str = DEFAULT_METHOD,
        calibration_tokens: int | str = AUTO,
        minutes: float = DEFAULT_MINUTES,
        sequence_length: float | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        cache: MeasuredCache | None = None,
        journal: Journal | None = None,
        judged: bool = True,
        budgets: Sequence[Budget] = (),
        sizes: Sizes | None = None,
    ) -> Pruner:
        """Make a `Pruner` on rows drawn from the calibration rows; unless only planning, judge the dense model first.

        `budgets`, with `sizes`, are what it will be asked for: what cannot be is refused before the model is judged.

        Raises:
            TrimformerError: wrong options, weights or rows, or a model that does not fit the task; before pruning.
        """
        with asked_by(method):
            rows = self.drawn(calibration_tokens, seed, labels=plugins.load("methods", method).needs_labels)
        pruner = Pruner(
            self.model,
            rows,
            method=method,
            tokenizer=self.tokenizer,
            calibration_tokens=calibration_tokens if isinstance(calibration_tokens, str) else None,
            minutes=minutes,
            sequence_length=sequence_length,
            batch_size=batch_size,
            seed=seed,
            options=options,
            cache=cache,
            journal=journal,
            progress=self.stages,
        )
        pruner.workload = stored_in(pruner.workload, self.model.dtype, self.stored_dtype)
        pruner.check(budgets, sizes)
        for warning in shorter(pruner.calibration.mean_length, self.evaluation_length, "the evaluation rows"):
            pruner.warnings.append(warning)
            caution(warning)
        if judged:
            _ = self.before  # a model that does not fit the task fails here, not after minutes of pruning
        return pruner

    def judge(self, result: PruningResult) -> TaskResult:
        """Measure what was gained and lost: the task's metrics and the latency, before and after.

        The pruned weights are first rounded to `stored_dtype`: what is judged is what is saved.
        """
        self.stages.enter("judging")
        round_weights(result.model, self.stored_dtype)
        with watching_resources(device_of(self.model)) as judging:
            after = self.evaluate(result.model, self.evaluation_rows)
            models = {DENSE: self.model, PRUNED: result.model}
            times = latency.measure_within(latency.LONGEST_JUDGING, result.facts.workload, models, progress=self.stages)
        collapsed = collapse(self.before, after, result.facts.budget, result.facts.sizes)
        warnings = [*filter(None, [collapsed, few_rows(after), other_tokens(after, self.vocabulary)])]
        for warning in warnings:
            caution(warning)
        result = replace(result, facts=result.facts.with_stage("judging", judging).with_warnings(*warnings))
        result = self._beside_the_given(result)
        facts = Manifest(
            model=result.facts,
            metrics={DENSE: self.before, PRUNED: after},
            lost=paired_drops(self.before, after, incomparable=(PERPLEXITY,) if self.vocabulary else ()),
            latency=times,
            origin=self.origin,
            vocabulary=self.vocabulary,
            bytes=BeforeAfter(
                before=self.vocabulary.bytes.before if self.vocabulary else weight_bytes(self.model, self.stored_dtype),
                after=weight_bytes(result.model, self.stored_dtype),
            ),
        )
        return TaskResult(result, facts, self.tokenizer, self.stored_dtype)

    def _beside_the_given(self, result: PruningResult) -> PruningResult:
        """Count the parameters of the dense model as it was given, where its vocabulary was trimmed before."""
        if self.vocabulary is None:
            return result
        counted = ParameterFacts(dense=self.vocabulary.parameters.before, pruned=result.facts.parameters.pruned)
        return result.telling(parameters=counted)

    def with_guard(self, seed: int = 0) -> Project:
        """Make the same project with some calibration rows set aside to decide by: a quarter of them, at most 1000.

        Raises:
            DataError: fewer than four rows.
        """
        count = min(GUARD_ROWS, len(self.calibration_rows) // 4)
        if count == 0:
            raise DataError(
                f"{len(self.calibration_rows)} calibration rows are too few to set some aside: give more rows"
            )
        order = np.random.default_rng(seed).permutation(len(self.calibration_rows))
        guard, rest = (select_rows(self.calibration_rows, part) for part in (order[:count], order[count:]))
        return replace(self, calibration_rows=rest, guard_rows=guard)

    def evaluate(self, model: PreTrainedModel, rows: Dataset) -> Metrics:
        """Judge a model by the task's metrics on some rows; what compares with a dense model takes the project's."""
        return self.task.evaluate(
            model, self.tokenizer, rows, dense=self.model, max_length=self.max_length, progress=self.stages
        )

    @cached_property
    def before(self) -> Metrics:
        """Metrics of the dense model on the evaluation rows, computed once."""
        if self.given:
            return self.given
        self.stages.enter("judging the dense model")
        return self.evaluate(self.model, self.evaluation_rows)

    def drawn(self, tokens: int | str, seed: int, *, labels: bool = False) -> list[Features]:
        """Draw calibration rows at random until they hold that many tokens; only as many as needed are encoded.

        Of `AUTO`, they are as many as may pay, to be chosen from. With `labels`, each has its own, classes in the
        model's order.

        Raises:
            DataError: there are none, or too few.
            InvalidOption: less than one token.
            LabelError: labels were asked for, and a row has none.
        """
        check_parameters(calibration_tokens=tokens, seed=seed)
        features: list[Features] = []
        for chunk in self._chunks(seed):
            encoded = self._labelled(chunk) if labels else self.task.encode(chunk, self.tokenizer, self.max_length)
            features += without(encoded, self.held_out)
            if sum(map(token_count, features)) >= (MOST_TOKENS if isinstance(tokens, str) else tokens):
                break
        if not features:
            raise DataError("no calibration rows: none, or every row is also an evaluation row; give rows kept apart")
        return features if isinstance(tokens, str) else sample_rows(features, tokens, seed)

    def _labelled(self, chunk: Dataset) -> list[Features]:
        try:
            features = self.task.encode(chunk, self.tokenizer, self.max_length, labels=True)
        except LabelError:
            self.task.encode(self.calibration_rows, self.tokenizer, self.max_length, labels=True)  # to name the row
            raise
        return in_model_order(features, getattr(self.task, "classes", ()), self.model.config)

    def _chunks(self, seed: int) -> Iterator[Dataset]:
        order = np.random.default_rng(seed).permutation(len(self.calibration_rows))
        for start in range(0, len(order), ENCODE_ROWS):
            yield select_rows(self.calibration_rows, order[start : start + ENCODE_ROWS])

    @cached_property
    def held_out(self) -> list[Features]:
        """Encoded rows that are neither calibrated nor trained on: the evaluation rows and the guard rows."""
        guard = self.task.encode(self.guard_rows, self.tokenizer, self.max_length) if self.guard_rows else []
        return [*self._evaluated, *guard]

    @cached_property
    def _evaluated(self) -> list[Features]:
        return self.task.encode(self.evaluation_rows, self.tokenizer, self.max_length)

    @property
    def evaluation_length(self) -> float | None:
        """Mean number of tokens of a sequence of the evaluation rows; None where there are none."""
        lengths = [len(sequence) for row in self._evaluated for sequence in choices(row)]
        return sum(lengths) / len(lengths) if lengths else None


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    data: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    dense: PreTrainedModel | None = None,
    max_length: int | None = None,
    evaluation_rows: int | None = None,
    progress: Progress | bool | None = None,
) -> Metrics:
    """Judge a model by a task's metrics on its validation rows.

    Args:
        model: dense or pruned.
        tokenizer: of the model.
        task: one of `trimformer list`.
        data: a folder or file; None takes the task's rows from the hub.
        columns: what columns of the rows are called, by the name that the task knows: `{"text": "Review Text"}`.
        dense: compare with this model, where the task has a metric that does.
        max_length: cut rows at this many tokens; else at the task's own length.
        evaluation_rows: judge by so many validation rows, the same ones each time; else by all.
        progress: as for `prune`.

    Raises:
        TrimformerError: there is no such task, its rows cannot be read, or the model does not fit it.
    """
    EVALUATION_ROWS.check(evaluation_rows)
    chosen: Task = fitted_to(plugins.load("tasks", task), model.config)
    shown = staged(progress, 0)
    with naming_columns(columns):
        rows = some_rows(chosen.rows(data, "validation"), evaluation_rows)
    return chosen.evaluate(model, fitted(tokenizer, model), rows, dense=dense, max_length=max_length, progress=shown)


def without(features: Sequence[Features], held_out: Sequence[Features]) -> list[Features]:
    """Keep the features whose tokens are not those of a held-out row, in their order."""
    seen = set(map(content, held_out))
    return [row for row in features if content(row) not in seen]
