"""Predictions of a model, in one form for every task head, their losses, and the distance of two models' predictions.

A sequence classifier makes one prediction per sequence, a QA head two (start and end), a masked language model or a
token classifier one per token, a multi-label classifier one (yes or no) per label. Regression and sentence
embeddings predict numbers. Everything that compares a pruned model with its dense model works on this form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from trimformer.data.batches import row_seeds, token_mask
from trimformer.data.labels import IGNORED
from trimformer.data.rows import LABELS, Batch
from trimformer.errors import DataError, UnsupportedModel
from trimformer.model.pooling import Pooling
from trimformer.model.sentence_files import pooling_of

_BINARY = 2
ERROR = 0.5
"""Error of a model that predicts numbers, as a share of the spread of its predictions: of one that explains 4/5."""
PADDED_LOGIT = -1e4
"""Logit of padding: so low that its probability is exactly zero in float32, finite so that differences are too."""
ONE_LOGIT_EACH = "ForPreTraining"
"""End of the name of model classes that give one logit for every token, as ELECTRA's discriminator does."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of one batch, with the weight of each among those of its sequence."""

    values: Tensor
    """Logits or numbers, `(batch, predictions, classes or dimensions)`."""
    weights: Tensor
    """Weight of each prediction, `(batch, predictions)`; rows sum to 1."""
    family: Literal["categorical", "gaussian"]
    """Logits of classes, or numbers with a Gaussian error of unit variance."""
    token_axis: Literal[1, 2] | None = None
    """Axis of `values` along which tokens lie: 1, one prediction each; 2, they are the classes; None, neither."""

    def detach(self) -> Predictions:
        """Give the same predictions without gradient."""
        return replace(self, values=self.values.detach())


def predictions(output: Any, batch: Batch, model: PreTrainedModel) -> Predictions:
    """Read a model's predictions from its output.

    Args:
        output: what the model returned (a transformers `ModelOutput`).
        batch: its inputs; the token mask says which tokens count.
        model: its class, and its config's `problem_type`, say what it predicts, its `pooling_of` how it embeds.

    Raises:
        UnsupportedModel: an output with neither logits nor hidden states, or a pooling that is not known.
    """
    if not isinstance(output, Mapping):
        raise UnsupportedModel(
            f"{type(model).__name__} returns a {type(output).__name__}: it must return a transformers ModelOutput with "
            "logits or last_hidden_state"
        )
    mask = token_mask(batch).to(torch.float32)
    if "start_logits" in output:
        logits = torch.stack([output["start_logits"], output["end_logits"]], dim=1).float()
        return _categorical(logits.masked_fill(mask[:, None] == 0, PADDED_LOGIT), token_axis=2)
    if "prediction_logits" in output:
        return _of_pre_training(output, mask)
    if "logits" not in output:
        if "last_hidden_state" not in output:
            raise UnsupportedModel(f"cannot compare outputs with {list(output.keys())}: logits or hidden states needed")
        return _gaussian(embed(output["last_hidden_state"], mask, pooling_of(model))[:, None])
    logits = output["logits"].float()
    if type(model).__name__.endswith(ONE_LOGIT_EACH) and logits.shape == mask.shape:
        logits = _yes_or_no(logits)
    if logits.ndim == 3:
        return Predictions(logits, mask / mask.sum(1, keepdim=True), "categorical", token_axis=1)
    return _of_sequences(logits, model.config)


def _of_pre_training(output: Mapping[str, Tensor], mask: Tensor) -> Predictions:
    """Put the prediction of a sequence, such as which sentence comes next, before those of its tokens.

    It has fewer classes than these; the others have the logit of padding.
    """
    tokens = output["prediction_logits"].float()
    of_sequence = next(output[name] for name in ("seq_relationship_logits", "sop_logits") if name in output).float()
    further = tokens.shape[-1] - of_sequence.shape[-1]
    first = F.pad(of_sequence, (0, further), value=PADDED_LOGIT)[:, None]
    counted = F.pad(mask, (1, 0), value=1.0)
    return Predictions(torch.cat([first, tokens], dim=1), counted / counted.sum(1, keepdim=True), "categorical", 1)


def _of_sequences(logits: Tensor, config: Any) -> Predictions:
    if config.problem_type == "multi_label_classification":
        return _categorical(_yes_or_no(logits))
    if config.problem_type == "regression" or logits.shape[-1] == 1:
        return _gaussian(logits[:, None])
    return _categorical(logits[:, None])


def _yes_or_no(logits: Tensor) -> Tensor:
    """Turn one logit against zero into a choice between two classes: `(…)` -> `(…, 2)`."""
    return torch.stack([torch.zeros_like(logits), logits], dim=-1)


def embed(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Pool each sequence's real tokens, scale to length 1: `(batch, tokens, width)` -> `(batch, width)`.

    Embeddings are compared by their cosine, whether or not the model itself scales them.
    """
    return F.normalize(pooling(hidden, mask), dim=-1)


def divergence(teacher: Predictions, student: Predictions, temperature: float = 1.0) -> Tensor:
    """Measure how far the student is from the teacher, per sequence: `(batch,)`.

    Categorical: `T² KL(softmax(teacher / T) ‖ softmax(student / T))`; numbers: squared distance. Averaged over a
    sequence's predictions.

    Source: K-prune (arXiv 2308.03449), predictive knowledge.
    """
    if student.family == "gaussian":
        per_prediction = (student.values - teacher.values).square().sum(-1)
    else:
        log_student = F.log_softmax(student.values / temperature, dim=-1)
        log_teacher = F.log_softmax(teacher.values / temperature, dim=-1)
        per_prediction = temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    return (per_prediction * student.weights).sum(1)


@torch.no_grad()
def mean_divergence(dense: PreTrainedModel, student: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Compute the mean divergence of a student's predictions over some rows, on one scale for every head: in nats.

    Of numbers, the dense model's error is taken to be half of the spread of what it predicts there: the divergence is
    that of Gaussians of this width, and is the same whatever unit the numbers have. One row alone has no spread: it is
    taken to be 1, which embeddings have where they point everywhere.
    """
    apart, known = list[Tensor](), list[Tensor]()
    for batch in batches:
        teacher, other = (predictions(model(**batch), batch, model) for model in (dense, student))
        apart.append(divergence(teacher, other).double())
        if teacher.family == "gaussian":
            known.append(teacher.values.flatten(0, 1).double())
    mean = float(torch.cat(apart).mean())
    if not known or not mean:
        return mean
    values = torch.cat(known)
    spread = float(values.var(0, unbiased=False).sum()) if len(values) > 1 else 1.0
    return mean / (2 * ERROR**2 * spread) if spread else math.inf


def agreement(teacher: Predictions, student: Predictions) -> Tensor:
    """Compute the share of a sequence's categorical predictions that name the same class: `(batch,)`."""
    same = (teacher.values.argmax(-1) == student.values.argmax(-1)).float()
    return (same * student.weights).sum(1)


def fisher_loss(predicted: Predictions, batch: Batch, seed: int) -> Tensor:
    """Compute, without labels, a loss whose gradients have the Fisher information as second moment: `(batch,)`.

    `⟨v, prediction⟩` with a random `v` of covariance `diag(p) − p pᵀ`, the Fisher information of logits; for numbers,
    of covariance `I` (a Gaussian of unit variance). Signs are drawn, not labels: for one prediction of two classes, and
    for one number, nothing is left to chance, and a confident model does not hang on rare draws. The draw depends on
    the seed and on the sequence's tokens alone, not on how sequences are batched. A sequence's predictions are summed.

    Differs from K-FAC's usual estimate (arXiv 1503.05671), which draws a label from `p`; the expectation is the same.
    """
    signs = _signs_by_sequence(batch, seed, predicted)
    counted = predicted.weights > 0
    direction = signs if predicted.family == "gaussian" else _fisher_root(predicted, signs)
    return ((direction * predicted.values).sum(-1) * counted).sum(1)


def _fisher_root(predicted: Predictions, signs: Tensor) -> Tensor:
    """Give `R s` with `R Rᵀ = diag(p) − p pᵀ`, `s` the signs: `(…, classes)` each; in closed form for two classes.

    A row of two tokens is not two classes: with padding it would be more.
    """
    root = F.softmax(predicted.values.detach(), dim=-1).sqrt()
    if root.shape[-1] == _BINARY and predicted.token_axis != 2:
        return root.prod(-1, keepdim=True) * signs[..., :1] * signs.new_tensor([1.0, -1.0])
    return root * (signs - root * (root * signs).sum(-1, keepdim=True))


def _signs_by_sequence(batch: Batch, seed: int, predicted: Predictions) -> Tensor:
    """Draw ±1 per prediction and class or dimension: `(batch, predictions, classes or dimensions)`.

    Tokens that are no padding come first in the draw, so that a row's signs are the same however its batch is padded.
    """
    count, dimensions = predicted.values.shape[1:]
    shape = (dimensions, count) if predicted.token_axis == 2 else (count, dimensions)
    rows = []
    seeds, masks = row_seeds(batch, seed), token_mask(batch).cpu()
    for row, row_seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(row_seed)
        signs = torch.randint(2, shape, generator=generator, dtype=torch.float32) * 2 - 1
        if predicted.token_axis is not None:
            before = count - len(masks[row]) if predicted.token_axis == 1 else 0
            places = F.pad(masks[row].long(), (before, 0), value=1)
            signs = signs[(places.cumsum(0) - 1).clamp(min=0)]
        rows.append(signs.T if predicted.token_axis == 2 else signs)
    return torch.stack(rows).to(predicted.values.device)


def _categorical(logits: Tensor, token_axis: Literal[2] | None = None) -> Predictions:
    weights = torch.full(logits.shape[:2], 1 / logits.shape[1], device=logits.device)
    return Predictions(logits, weights, "categorical", token_axis)


def _gaussian(values: Tensor) -> Predictions:
    return Predictions(values, torch.ones(values.shape[:2], device=values.device), "gaussian")


def of_next_tokens(labels: Sequence[Batch]) -> list[Batch]:
    """Put a language model's labels, its tokens, beside the predictions of them: one place earlier, none at the end."""
    return [{name: F.pad(values[:, 1:], (0, 1), value=IGNORED) for name, values in batch.items()} for batch in labels]


def task_loss(predicted: Predictions, labels: Batch) -> Tensor:
    """Compute the loss that the model was trained on, per sequence: `(batch,)`, the mean over labelled predictions.

    Cross-entropy of classes, yes-or-no answers and positions, squared distance of numbers. Padding does not enter, so
    that a row's loss is the same in every batch. Labels stand beside the prediction of them, see `of_next_tokens`.

    Raises:
        DataError: labels of another number than predictions, or outside the model's classes.
    """
    columns = [labels[name] for name in LABELS if name in labels]
    targets = columns[0] if len(columns) == 1 else torch.stack(columns, dim=1)
    expected = predicted.values.shape[:2] if predicted.family == "categorical" else predicted.values[:, 0].shape
    if targets.ndim == 1 or targets.numel() == expected.numel():
        targets = targets.reshape(len(targets), -1)
    if targets.ndim == 2 and targets.shape[1] + 1 == expected[-1]:
        targets = F.pad(targets, (1, 0), value=IGNORED)  # those of tokens alone, before which a sequence's stands
    if targets.shape != expected:
        raise DataError(f"labels of shape {tuple(targets.shape)} do not fit predictions of shape {tuple(expected)}")
    if predicted.family == "gaussian":
        return (predicted.values[:, 0] - targets.to(predicted.values)).square().mean(1)
    counted = targets != IGNORED
    classes = predicted.values.shape[-1]
    if bool((((targets < 0) & counted) | (targets >= classes)).any()):
        raise DataError(
            f"a label is outside 0 to {classes - 1}, the model's classes: check that the data fits the model"
        )
    losses = F.cross_entropy(predicted.values.transpose(1, 2), targets.long(), ignore_index=IGNORED, reduction="none")
    return losses.sum(1) / counted.sum(1).clamp(min=1)
