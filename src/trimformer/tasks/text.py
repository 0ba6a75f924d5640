"""The user's own text, without labels: how closely the pruned model answers as the dense one does.

Works with every head: classifiers, question answering and masked language models by the classes they predict,
regression by its numbers, encoders without a head by their sentence embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.columns import TEXT_COLUMNS, choose_columns, row_names, texts
from trimformer.data.encoding import encode_texts
from trimformer.data.files import read_split_of_text
from trimformer.data.rows import Batch, Features, Split
from trimformer.errors import DataError, LabelError, UnsupportedModel
from trimformer.judging.evaluation import inference, outputs_by_row
from trimformer.judging.metrics import RELATIVE, Metrics
from trimformer.judging.statistics import mean, metric
from trimformer.judging.task import Task
from trimformer.model.offload import device_of
from trimformer.observing.predictions import agreement, divergence, predictions
from trimformer.progress import Progress

MAX_PADDED_TOKENS = 1024
"""Most tokens in a batch: a language model's logits, once per model, are a whole vocabulary for each."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """The task of unlabelled text, where a model is judged against the dense one."""

    description: str = "your own unlabelled text: agreement with the dense model, and divergence from it"
    auto_class: str | None = None
    metrics: tuple[str, ...] = RELATIVE
    encoded_by: Task | None = None
    """Another task whose rows are compared on, encoded as it does; None for rows of text."""

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the rows of one split from a folder or one file; rows without any text are left out.

        Raises:
            DataError: no source, rows that cannot be read, have no text column, or are all empty.
        """
        return read_split_of_text(source, split, "text")

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Encode each row as one feature, truncated to 128 tokens unless said.

        Raises:
            DataError: no text column, or one that holds something else than text.
            LabelError: `labels` is set; text has none.
        """
        if labels:
            raise LabelError("rows of the text task have no labels: choose a task that has")
        if self.encoded_by is not None:
            return self.encoded_by.encode(rows, tokenizer, max_length)
        columns = [texts(rows, name) for name in choose_columns(rows, TEXT_COLUMNS)]
        return encode_texts(columns, tokenizer, max_length, row_names(rows))

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
        """Judge a model by how near it is to the dense one: the means over rows of the metrics of `compare`.

        Raises:
            DataError: `dense` is not given; otherwise as `encode`.
            UnsupportedModel: the two models' predictions have different shapes.
        """
        if dense is None:
            raise DataError(
                "text without labels is judged against the dense model: pass the dense model as `dense`, "
                "or choose a task with labels"
            )
        features = self.encode(rows, tokenizer, max_length)
        read = partial(_read, dense)
        with inference(dense):
            found = outputs_by_row(
                model, tokenizer, features, read, progress=progress, max_padded_tokens=MAX_PADDED_TOKENS
            )
        return {name: metric(mean, torch.stack(values).numpy()) for name, values in found.items()}


def compare(dense_output: Any, output: Any, batch: Batch, dense: PreTrainedModel) -> dict[str, Tensor]:
    """Measure how near the pruned model's predictions are to the dense model's: `(batch,)` each, by metric name.

    Encoders without head: `cosine_to_dense`. Classes: `agreement`, and `kl` (lower is better). Numbers:
    `squared_distance` (lower is better).

    Raises:
        UnsupportedModel: predictions of different shapes.
    """
    teacher, student = predictions(dense_output, batch, dense), predictions(output, batch, dense)
    if teacher.values.shape != student.values.shape:
        raise UnsupportedModel(
            f"the dense model predicts {tuple(teacher.values.shape)} numbers, the pruned one "
            f"{tuple(student.values.shape)}: give the dense model that the pruned one was made of"
        )
    if "last_hidden_state" in output:
        return {"cosine_to_dense": (teacher.values * student.values).sum(-1)[:, 0]}
    if student.family == "gaussian":
        return {"squared_distance": divergence(teacher, student)}
    return {"agreement": agreement(teacher, student), "kl": divergence(teacher, student).clamp(min=0)}


def _read(dense: PreTrainedModel, output: Any, batch: Batch) -> Mapping[str, Tensor]:
    dense_output = dense(**{name: values.to(device_of(dense)) for name, values in batch.items()})
    device = batch["input_ids"].device
    here = {name: values.to(device) for name, values in dense_output.items() if torch.is_tensor(values)}
    return compare(here, output, batch, dense)


PROVIDES = {"text": Text()}
