"""Classification of texts or pairs: any number of classes, several labels a text, or a number.

Which of the three it is, and what the classes are called, says the model. Labels of rows are its classes' names or
numbers. A benchmark's task is the same with names of its own (`tasks/glue`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.columns import choose_columns, has_columns, numbers, row_names, texts
from trimformer.data.encoding import encode_texts
from trimformer.data.files import read_rows, read_split
from trimformer.data.hub import read_hub
from trimformer.data.labels import about_labels, class_names, class_numbers, class_order, label_sets, labels_of
from trimformer.data.rows import Batch, Features, Split
from trimformer.errors import DataError, UnsupportedModel
from trimformer.judging import statistics
from trimformer.judging.evaluation import outputs_by_row
from trimformer.judging.metrics import Metrics
from trimformer.judging.statistics import Array, Statistic, metric
from trimformer.progress import Progress

PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)
SINGLE = ("text", "sentence", "content", "review", "utterance", "message", "body", "description", "title", "question")
TEXTS = (*PAIRS, *((name,) for name in SINGLE))
LABEL = ("label", "labels", "class", "category", "intent", "sentiment", "target", "rating", "stars", "score")
Kind = Literal["classes", "label sets", "number"]
_PROBLEMS: Mapping[str, Kind] = {"multi_label_classification": "label sets", "regression": "number"}


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's task on the hub."""

    name: str
    hub: str
    config: str
    validation_split: str = "validation"


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The task of a sequence classifier; until it knows a model or is a benchmark's, labels are whole numbers."""

    description: str
    columns: tuple[tuple[str, ...], ...] = TEXTS
    kind: Kind = "classes"
    classes: tuple[str, ...] = ()
    """Names of the classes: of a benchmark, in the order of its labels; else in the model's order."""
    statistics: Mapping[str, Statistic] = field(default_factory=dict)
    """Metrics by name, the judging one first; none takes those of the kind."""
    highest: float = float("inf")
    benchmark: Benchmark | None = None
    label_columns: tuple[str, ...] = LABEL
    auto_class: str = "AutoModelForSequenceClassification"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, the judging one first."""
        return ("micro_f1", "accuracy") if self.kind == "label sets" else tuple(self._judged_by())

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns of the texts, as the benchmark names them."""
        return self.columns[0]

    @property
    def num_labels(self) -> int:
        """Number of outputs that a model needs: one per class, or one for a number; two while none are known."""
        return len(self.classes) or (1 if self.kind == "number" else 2)

    @property
    def head_config(self) -> dict[str, Any]:
        """Settings of a new head's config: the number of outputs, or the names of the classes."""
        if self.kind == "number":
            return {"num_labels": 1, "problem_type": "regression"}
        if not self.classes:
            return {}
        names = dict(enumerate(self.classes))
        problem = f"{'multi' if self.kind == 'label sets' else 'single'}_label_classification"
        return {
            "id2label": names,
            "label2id": {name: number for number, name in names.items()},
            "problem_type": problem,
        }

    def for_model(self, config: Any) -> Classification:
        """Give the task with the classes of a model; a benchmark's has its own."""
        if self.benchmark is not None:
            return self
        problem = getattr(config, "problem_type", None) or ""
        kind = _PROBLEMS.get(problem, "classes" if problem or config.num_labels > 1 else "number")
        return replace(self, kind=kind, classes=() if kind == "number" else class_names(config.id2label))

    def for_rows(self, rows: Dataset) -> Classification:
        """Give the task with the classes that occur in some rows, for a head that is yet to be trained."""
        if self.benchmark is not None:
            return self
        kind, classes = labels_of(rows, self._label(rows))
        return replace(self, kind=kind, classes=classes)

    def fits(self, source: str) -> bool:
        """Tell whether the rows of a source have labels."""
        return has_columns(read_rows(source, "validation"), [(name,) for name in self.label_columns])

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the rows of one split from a folder, one file, or (None) the hub; validation rows must be labelled.

        Raises:
            DataError: rows that cannot be read, lack a column, or have labels outside a benchmark's.
        """
        if source is None and self.benchmark is None:
            raise DataError("rows of your own are needed: give a file or folder as `data`, or a task such as `sst2`")
        rows = read_split(source, split) if source is not None else self._hub_rows(split)
        choose_columns(rows, self.columns)
        if split == "validation":
            self._label(rows)
            if self.benchmark is not None or self.classes:
                self.labels(rows)
        return rows

    def _hub_rows(self, split: Split) -> Dataset:
        known = self.benchmark
        assert known is not None  # noqa: S101  # `rows` has refused that
        return read_hub(known.hub, known.config, known.validation_split if split == "validation" else split)

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode each row as one feature, truncated to 128 tokens unless said; labels are not needed.

        With `labels`, a feature's `labels` is its class number, a yes or no for every class, or a number.

        Raises:
            DataError: a text column is missing or holds something else than text.
            LabelError: `labels` is set, and a row has none or a wrong one.
        """
        with about_labels():
            values = self.labels(rows).tolist() if labels else []
        columns = choose_columns(rows, self.columns)
        features = encode_texts([texts(rows, column) for column in columns], tokenizer, max_length, row_names(rows))
        return [{**row, "labels": value} for row, value in zip(features, values, strict=True)] if labels else features

    def labels(self, rows: Dataset) -> Array:
        """Read labels: class numbers or numbers, `(rows,)`, or a yes or no for every class, `(rows, classes)`.

        Raises:
            DataError: unlabelled rows, or labels of another kind, or that the model or benchmark does not have.
        """
        column = self._label(rows)
        if self.kind == "number":
            return numbers(rows, column, low=0 if self.benchmark else -self.highest, high=self.highest)
        if self.kind == "label sets":
            return label_sets(rows, column, self.classes)
        if self.benchmark is not None or not self.classes:
            high = len(self.classes) - 1 if self.classes else self.highest
            return numbers(rows, column, whole=True, low=0, high=high)
        return class_numbers(rows, column, self.classes)

    def evaluate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        *,
        dense: PreTrainedModel | None = None,
        max_length: int | None = None,
        progress: Progress | None = None,
    ) -> Metrics:
        """Judge a model by its metrics over rows; `dense` is not needed.

        Classes: `accuracy`, and `f1` of the second of two or `macro_f1`. Label sets: `micro_f1`, and `accuracy` of
        whole sets. Numbers: `spearman`, `pearson`.

        Raises:
            UnsupportedModel: a model that is no sequence classifier, or has another number of labels than a benchmark.
            DataError: as `labels` and `encode`.
        """
        task = self.for_model(model.config)
        actual = task.labels(rows)
        if self.benchmark is not None and model.config.num_labels != self.num_labels:
            raise UnsupportedModel(
                f"the model has {model.config.num_labels} labels, but {self.benchmark.name} needs {self.num_labels}: "
                "give a model fine-tuned on this task, or judge it by the task `classification`"
            )
        features = self.encode(rows, tokenizer, max_length)
        logits = torch.stack(outputs_by_row(model, tokenizer, features, _read, progress=progress)["logits"])
        if task.kind == "label sets":
            return _of_sets(np.asarray(logits > 0), actual > 0)
        predicted = task._predicted(logits, model.config.id2label)  # noqa: SLF001  # of this class
        return {name: metric(each, predicted, actual) for name, each in task._judged_by().items()}  # noqa: SLF001

    def _predicted(self, logits: Tensor, names: Mapping[Any, str] | None) -> Array:
        """Read off numbers, or class numbers in the task's order, whatever that of the model is."""
        if self.kind == "number":
            return np.asarray(logits[:, 0].double())
        return np.asarray(logits[:, class_order(self.classes, names)].argmax(-1))

    def _judged_by(self) -> Mapping[str, Statistic]:
        if self.statistics:
            return self.statistics
        if self.kind == "number":
            return {"spearman": statistics.spearman, "pearson": statistics.pearson}
        f1 = {"f1": statistics.f1} if len(self.classes) == 2 else {"macro_f1": statistics.macro_f1}
        return {"accuracy": statistics.accuracy, **f1}

    def _label(self, rows: Dataset) -> str:
        return choose_columns(rows, [(name,) for name in self.label_columns])[0]


def _of_sets(predicted: Array, actual: Array) -> Metrics:
    both, said, right = ((each).sum(1) for each in (predicted & actual, predicted, actual))
    return {
        "micro_f1": metric(statistics.f1_of_counts, both, said, right),
        "accuracy": metric(statistics.mean, (predicted == actual).all(1)),
    }


def _read(output: Any, _: Batch) -> Mapping[str, Tensor]:
    if "logits" not in output or output["logits"].ndim != 2:
        raise UnsupportedModel("the model does not classify sequences: load it with AutoModelForSequenceClassification")
    return {"logits": output["logits"].float()}


def of_benchmark(
    description: str,
    benchmark: Benchmark,
    text_columns: Sequence[str],
    classes: tuple[str, ...] = (),
    judged_by: Mapping[str, Statistic] | None = None,
    highest: float = float("inf"),
) -> Classification:
    """Make a benchmark's task, with its columns (pairs may also be called `sentence1` and `sentence2`) and classes."""
    pair = [("sentence1", "sentence2")] if len(text_columns) > 1 else []
    return Classification(
        description=description,
        benchmark=benchmark,
        columns=tuple(dict.fromkeys([tuple(text_columns), *pair])),
        kind="classes" if classes else "number",
        classes=classes,
        statistics=judged_by or {"accuracy": statistics.accuracy},
        highest=highest,
        label_columns=("label",),
    )
