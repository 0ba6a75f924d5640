"""Divergences equal PyTorch's, for every kind of prediction."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tiny_models import HEADS, inputs, tiny_model
from trimformer.observing.predictions import Predictions, divergence, fisher_loss, predictions


def made(seed: int, family: str = "categorical") -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]])
    return Predictions(torch.randn(3, 2, 6, generator=generator), weights, family)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_categorical_divergence_is_the_kl_of_pytorch(temperature: float) -> None:
    teacher, student = made(0), made(1)
    found = divergence(teacher, student, temperature)
    for row in range(3):
        expected = sum(
            student.weights[row, index]
            * temperature**2
            * F.kl_div(
                F.log_softmax(student.values[row, index] / temperature, -1),
                F.softmax(teacher.values[row, index] / temperature, -1),
                reduction="sum",
            )
            for index in range(2)
        )
        assert found[row] == pytest.approx(float(expected), abs=1e-5)
    assert torch.equal(divergence(teacher, teacher, temperature), torch.zeros(3))


def test_numbers_are_compared_by_squared_distance() -> None:
    teacher, student = made(0, "gaussian"), made(1, "gaussian")
    squares = (student.values - teacher.values).square().sum(-1)
    torch.testing.assert_close(divergence(teacher, student), (squares * student.weights).sum(1))


@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_no_divergence(head: str) -> None:
    dense, other = tiny_model("bert", head), tiny_model("bert", head, seed=1)
    batch = inputs(dense)
    with torch.no_grad():
        together = divergence(*(predictions(model(**batch), batch, model) for model in (dense, other)))
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            alone = {name: values[row : row + 1, :length] for name, values in batch.items()}
            found = divergence(*(predictions(model(**alone), alone, model) for model in (dense, other)))
            torch.testing.assert_close(found[0], together[row], atol=1e-4, rtol=1e-4)


def test_fisher_directions_of_several_binary_predictions_do_not_mix() -> None:
    logits = torch.tensor([[[0.0, 1.0], [0.0, -0.5], [0.0, 0.2]]])
    total, draws = torch.zeros(3, 3), 4000
    for seed in range(draws):
        values = logits.clone().requires_grad_()
        predicted = Predictions(values, torch.full((1, 3), 1 / 3), "categorical")
        batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
        fisher_loss(predicted, batch, seed).sum().backward()
        gradient = values.grad[0, :, 1]
        total += torch.outer(gradient, gradient) / draws
    share = logits[0, :, 1].sigmoid()
    torch.testing.assert_close(total, torch.diag(share * (1 - share)), atol=0.02, rtol=0)
