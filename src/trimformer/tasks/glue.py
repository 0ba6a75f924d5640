"""GLUE: nine tasks of judging a sentence or a pair of sentences, by the benchmark's own metrics.

Rows of one's own need the same columns (pairs may also be called `sentence1` and `sentence2`) and the same labels.

Source: Wang et al., GLUE (arXiv 1804.07461).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.columns import choose_columns, numbers, require_columns, texts
from trimformer.data.encoding import encode_texts
from trimformer.data.files import read_split
from trimformer.data.hub import read_hub
from trimformer.data.labels import about_labels, class_order
from trimformer.data.rows import Batch, Features, Split
from trimformer.errors import UnsupportedModel
from trimformer.judging import statistics
from trimformer.judging.evaluation import outputs_by_row
from trimformer.judging.metrics import Metrics
from trimformer.judging.statistics import Array, Statistic, metric
from trimformer.progress import Progress

HUB_NAME = "nyu-mll/glue"
HIGHEST_SIMILARITY = 5.0


@dataclass(frozen=True, kw_only=True)
class Glue:
    """One GLUE task; regression if it has no classes."""

    description: str
    config: str
    text_columns: tuple[str, ...]
    statistics: Mapping[str, Statistic] = field(default_factory=lambda: {"accuracy": statistics.accuracy})
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the benchmark's labels."""
    validation_split: str = "validation"
    auto_class: str = "AutoModelForSequenceClassification"

    @property
    def num_labels(self) -> int:
        """Number of outputs that a model needs: one per class, or one for a regression."""
        return len(self.classes) or 1

    @property
    def head_config(self) -> dict[str, Any]:
        """Settings of a new head's config: the number of outputs, or the names of the classes."""
        if not self.classes:
            return {"num_labels": 1, "problem_type": "regression"}
        names = dict(enumerate(self.classes))
        return {"id2label": names, "label2id": {name: number for number, name in names.items()}}

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the rows of one split from a folder, one file, or (None) the hub; validation rows must be labelled.

        Raises:
            DataError: rows that cannot be read, lack a column, or have labels outside the task's.
        """
        name = source or f"{HUB_NAME} {self.config}"
        hub_split = self.validation_split if split == "validation" else split
        rows = read_hub(HUB_NAME, self.config, hub_split) if source is None else read_split(source, split)
        self._columns(rows, name)
        if split == "validation":
            self.labels(rows, f"the validation split of {name}")
        return rows

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode each row as one feature, truncated to 128 tokens unless said; labels are not needed.

        With `labels`, a feature's `labels` is its class number in the benchmark's order, or its similarity.

        Raises:
            DataError: a text column is missing or holds something else than text.
            LabelError: `labels` is set, and a row has none or a wrong one.
        """
        with about_labels():
            values = self.labels(rows).tolist() if labels else []
        features = encode_texts([texts(rows, column) for column in self._columns(rows)], tokenizer, max_length)
        return [{**row, "labels": value} for row, value in zip(features, values, strict=True)] if labels else features

    def labels(self, rows: Dataset, source: str = "the data") -> Array:
        """Read labels as `(rows,)`: class numbers, or similarities from 0 to 5.

        Raises:
            DataError: unlabelled rows, or labels of another kind or range.
        """
        require_columns(rows, ["label"], source)
        high = len(self.classes) - 1 if self.classes else HIGHEST_SIMILARITY
        return numbers(rows, "label", source, whole=bool(self.classes), low=0, high=high)

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
        """Judge a model by the benchmark's metrics over rows; `dense` is not needed.

        Raises:
            UnsupportedModel: a model that is no sequence classifier, or has another number of labels.
            DataError: as `labels` and `encode`.
        """
        actual = self.labels(rows)
        if model.config.num_labels != self.num_labels:
            raise UnsupportedModel(
                f"the model has {model.config.num_labels} labels, but GLUE's {self.config} needs {self.num_labels}: "
                "give a model fine-tuned on this task"
            )
        features = self.encode(rows, tokenizer, max_length)
        logits = torch.stack(outputs_by_row(model, tokenizer, features, _read, progress=progress)["logits"])
        predicted = self._predicted(logits, model.config.id2label)
        return {name: metric(statistic, predicted, actual) for name, statistic in self.statistics.items()}

    def _predicted(self, logits: Tensor, names: Mapping[Any, str] | None) -> Array:
        """Read off similarities, or class numbers in the benchmark's order, whatever that of the model is."""
        if not self.classes:
            return np.asarray(logits[:, 0].double())
        return np.asarray(logits[:, class_order(self.classes, names)].argmax(-1))

    def _columns(self, rows: Dataset, source: str = "the data") -> tuple[str, ...]:
        pair = [("sentence1", "sentence2")] if len(self.text_columns) > 1 else []
        return choose_columns(rows, list(dict.fromkeys([self.text_columns, *pair])), source)


def _read(output: Any, _: Batch) -> Mapping[str, Tensor]:
    if "logits" not in output or output["logits"].ndim != 2:
        raise UnsupportedModel("the model does not classify sequences: load it with AutoModelForSequenceClassification")
    return {"logits": output["logits"].float()}


PAIR = ("sentence1", "sentence2")
INFERENCE = ("entailment", "neutral", "contradiction")
PROVIDES = {
    "cola": Glue(
        description="GLUE CoLA: is a sentence grammatical? Matthews' correlation",
        config="cola",
        text_columns=("sentence",),
        classes=("unacceptable", "acceptable"),
        statistics={"matthews": statistics.matthews},
    ),
    "sst2": Glue(
        description="GLUE SST-2: is a film review positive? accuracy",
        config="sst2",
        text_columns=("sentence",),
        classes=("negative", "positive"),
    ),
    "mrpc": Glue(
        description="GLUE MRPC: do two news sentences say the same? accuracy, F1",
        config="mrpc",
        text_columns=PAIR,
        classes=("not_equivalent", "equivalent"),
        statistics={"accuracy": statistics.accuracy, "f1": statistics.f1},
    ),
    "stsb": Glue(
        description="GLUE STS-B: how similar are two sentences, 0 to 5? Spearman's and Pearson's correlation",
        config="stsb",
        text_columns=PAIR,
        statistics={"spearman": statistics.spearman, "pearson": statistics.pearson},
    ),
    "qqp": Glue(
        description="GLUE QQP: do two questions ask the same? accuracy, F1",
        config="qqp",
        text_columns=("question1", "question2"),
        classes=("not_duplicate", "duplicate"),
        statistics={"accuracy": statistics.accuracy, "f1": statistics.f1},
    ),
    "mnli": Glue(
        description="GLUE MNLI: does a premise entail a hypothesis? accuracy on the genres of the training rows",
        config="mnli",
        text_columns=("premise", "hypothesis"),
        classes=INFERENCE,
        validation_split="validation_matched",
    ),
    "mnli_mismatched": Glue(
        description="GLUE MNLI-mm: does a premise entail a hypothesis? accuracy on other genres than the training rows",
        config="mnli",
        text_columns=("premise", "hypothesis"),
        classes=INFERENCE,
        validation_split="validation_mismatched",
    ),
    "qnli": Glue(
        description="GLUE QNLI: does a sentence hold the answer to a question? accuracy",
        config="qnli",
        text_columns=("question", "sentence"),
        classes=("entailment", "not_entailment"),
    ),
    "rte": Glue(
        description="GLUE RTE: does a text entail a sentence? accuracy",
        config="rte",
        text_columns=PAIR,
        classes=("entailment", "not_entailment"),
    ),
    "wnli": Glue(
        description="GLUE WNLI: does a sentence follow with its pronoun replaced? accuracy",
        config="wnli",
        text_columns=PAIR,
        classes=("not_entailment", "entailment"),
    ),
}
