"""Losses for training sentence embeddings on pairs of texts. Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.05
"""Number that cosines are divided by, so that differences of a few hundredths matter."""


def contrastive_loss(first: Tensor, second: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Compute how far the texts of each pair are from finding each other among those of the batch; a scalar.

    Mean cross-entropy of `first @ second.T / temperature` with the diagonal as answers, over rows and over columns.

    Args:
        first: `(pairs, width)`, of length one each.
        second: likewise.
        temperature: above 0.

    Source: van den Oord et al. (arXiv 1807.03748); both directions as Radford et al. (arXiv 2103.00020).
    """
    similarity = first @ second.T / temperature
    answers = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(similarity, answers) + F.cross_entropy(similarity.T, answers)) / 2


def ranking_loss(first: Tensor, second: Tensor, scores: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Compute how far cosines are from the order of the pairs' scores, whatever their unit; a scalar, at least 0.

    `log(1 + Σ exp((cos_j − cos_i) / temperature))` over all `i`, `j` of the batch with `score_i > score_j`.

    Args:
        first: `(pairs, width)`, of length one each.
        second: likewise.
        scores: `(pairs,)`.
        temperature: above 0.

    Source: the circle-loss form (arXiv 2002.10857) on cosines, known as CoSENT.
    """
    cosines = (first * second).sum(-1) / temperature
    wrong_by = (cosines[None, :] - cosines[:, None])[scores[:, None] > scores[None, :]]
    return torch.cat([wrong_by.new_zeros(1), wrong_by]).logsumexp(0)
