"""Losses that make a student like a teacher: of predictions, and of hidden states. Pure functions.

Source: Hou et al., DynaBERT (NeurIPS 2020), section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from trimformer.data.rows import Batch
from trimformer.errors import UnsupportedModel
from trimformer.observing.predictions import Predictions, predictions


@dataclass(frozen=True)
class Shown:
    """Everything that a model shows of a batch: its predictions, and the hidden states before and after each block."""

    predicted: Predictions
    hidden: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: PreTrainedModel, output: Any, batch: Batch) -> Shown:
        """Read it from a model's output, computed with `output_hidden_states=True`.

        Raises:
            UnsupportedModel: the output has no hidden states.
        """
        hidden = output.get("hidden_states")
        if hidden is None:
            raise UnsupportedModel(
                f"{type(model).__name__} does not give its hidden states, by which students learn: "
                "choose a method that trains on labels, such as dynabert with `distil=false`"
            )
        return cls(predictions(output, batch, model), hidden)


def soft_loss(teacher: Predictions, student: Predictions) -> Tensor:
    """Compute `Σ −softmax(teacher) log softmax(student)` of classes, or `Σ (teacher − student)²` of numbers.

    A sequence's predictions are averaged by their weights, sequences by their number: a scalar.
    """
    if student.family == "gaussian":
        each = (student.values - teacher.values).square().sum(-1)
    else:
        each = -(F.softmax(teacher.values, dim=-1) * F.log_softmax(student.values, dim=-1)).sum(-1)
    return (each * student.weights).sum(1).mean()


def hidden_loss(pairs: Sequence[tuple[Tensor, Tensor]], real: Tensor) -> Tensor:
    """Compute `Σ_l mean (student_l − teacher_l)²`, over all numbers of real tokens: a scalar.

    Args:
        pairs: hidden states of student and teacher, `(sequences, tokens, width)` each.
        real: which tokens are no padding, bool `(sequences, tokens)`.
    """
    counted = real.to(pairs[0][0])[..., None]
    numbers = counted.sum() * pairs[0][0].shape[-1]
    sums = [((student - teacher).square() * counted).sum() for student, teacher in pairs]
    total: Tensor = sum(sums[1:], sums[0]) / numbers
    return total


def relative_hidden_loss(pairs: Sequence[tuple[Tensor, Tensor]], real: Tensor) -> Tensor:
    """Compute the mean over layers of `Σ (student_l − teacher_l)² / Σ teacher_l²`, over real tokens: a scalar.

    Args:
        pairs: hidden states of student and teacher, `(sequences, tokens, width)` each.
        real: which tokens are no padding, bool `(sequences, tokens)`.
    """
    counted = real.to(pairs[0][0])[..., None]
    shares = [
        ((student - teacher).square() * counted).sum() / (teacher.square() * counted).sum()
        for student, teacher in pairs
    ]
    mean: Tensor = sum(shares[1:], shares[0]) / len(shares)
    return mean
