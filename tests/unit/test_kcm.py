"""KCM keeps all heads and the neurons that are active and like no other, and says which budgets it can reach."""

from __future__ import annotations

import pytest
import torch

from tiny_models import inputs, tiny_model
from trimformer import Budget
from trimformer.errors import InvalidOption, NumericalError, UnreachableTarget
from trimformer.methods.kcm import KCM
from trimformer.pruning.choose import scoring
from trimformer.pruning.choose.scoring import convex_representation
from trimformer.pruning.pruner import Pruner


def test_heads_stay_and_a_silent_neuron_goes_first() -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        model.bert.encoder.layer[1].intermediate.dense.weight[5] = 0
        model.bert.encoder.layer[1].intermediate.dense.bias[5] = -20
    result = Pruner(model, [inputs(model)], method="kcm").prune(Budget(params=0.99))
    removed = {name: (~mask).nonzero()[:, 0].tolist() for name, mask in result.masks.items()}
    assert 5 in removed["encoder.layer.1.ffn"]
    assert not removed["encoder.layer.0.attention"] + removed["encoder.layer.1.attention"]


def test_a_sublayer_in_which_no_neuron_is_ever_active_goes_first() -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        for parameter in model.bert.encoder.layer[0].intermediate.dense.parameters():
            parameter.zero_()
    masks = Pruner(model, [inputs(model)], method="kcm").prune(Budget(params=0.9)).masks
    assert not bool(masks["encoder.layer.0.ffn"].all())
    assert bool(masks["encoder.layer.1.ffn"].all())


def test_a_budget_that_neurons_cannot_reach_names_what_they_can() -> None:
    model = tiny_model("bert")
    pruner = Pruner(model, [inputs(model)], method="kcm")
    with pytest.raises(UnreachableTarget, match=r"all heads, which are 0\.7\d\d of the cost of all units, but 0\.500"):
        pruner.prune(Budget(flops=0.5))


def test_like_vectors_represent_each_other() -> None:
    vectors = torch.eye(6)
    vectors[1] = vectors[0] + 0.01
    needed = convex_representation(vectors, 1.0, 1e-2)
    assert needed.shape == (6,)
    assert bool((needed[:2] < needed[2:].min()).all())
    assert needed[2:].std() < 0.01
    torch.testing.assert_close(convex_representation(vectors * torch.arange(1, 7)[:, None], 1.0, 1e-2), needed)


@pytest.mark.parametrize("sigma", [0.1, 0.01])
def test_twins_are_needed_half_each_however_narrow_the_kernel(sigma: float) -> None:
    """Of unlike vectors, `K` is then too small for a number; of a vector with itself and its twin it is 1."""
    vectors = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    vectors[:20] = vectors[20:]
    torch.testing.assert_close(convex_representation(vectors, sigma, 1e-2), torch.full((40,), 0.5), atol=0.01, rtol=0)


def test_one_step_by_hand() -> None:
    """`C₁ = C₀ ∘ (K / (K C₀))^½` with `C₀ = 1/2` for two orthogonal vectors: `K = [[1, e⁻²], [e⁻², 1]]`."""
    needed = convex_representation(torch.eye(2), 1.0, 0.9)
    off = torch.tensor(-2.0).exp()
    torch.testing.assert_close(needed, (0.5 * (1 / ((1 + off) / 2)).sqrt()).expand(2))


def test_what_does_not_settle_is_an_error() -> None:
    with pytest.raises(NumericalError, match="use `tolerance=1e-11`"):
        convex_representation(torch.eye(4) + 0.9, 1.0, 1e-12)


def test_the_advice_for_what_does_not_settle_is_a_value_that_kcm_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_ITERATIONS", 1)
    with pytest.raises(NumericalError, match=r"use `tolerance=0\.05`"):
        convex_representation(torch.eye(4) + 0.9, 1.0, KCM().tolerance)
    assert KCM(tolerance=0.05).tolerance == scoring.LOOSEST_TOLERANCE


@pytest.mark.parametrize(
    ("option", "value"), [("sigma", 0.0), ("tolerance", 0.0), ("tolerance", 0.1), ("damping", -1.0)]
)
def test_options_out_of_range(option: str, value: float) -> None:
    with pytest.raises(InvalidOption, match=option):
        KCM(**{option: value})
