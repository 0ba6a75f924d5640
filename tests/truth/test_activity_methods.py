"""`wanda_sp`, `flap` and `shortgpt` against their definitions, computed by plain hooks and loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tiny_models import inputs, tiny_model
from trimformer import Budget, Pruner, Sizes

BLOCKS, HEADS = 3, 4
SITES = [f"encoder.layer.{block}.{name}" for block in range(BLOCKS) for name in ("attention", "ffn")]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """A classifier in which one block hardly turns the residual stream, and one FFN is constant but large."""
    model = tiny_model("bert", num_hidden_layers=BLOCKS)
    with torch.no_grad():
        layers = model.bert.encoder.layer
        for module in (layers[1].attention.output.dense, layers[1].output.dense):
            module.weight.mul_(0.01)
        layers[2].intermediate.dense.bias[:4] += 30.0
        layers[2].intermediate.dense.weight[:4] *= 0.01
    return model.eval()


@pytest.fixture(scope="module")
def batches() -> list[dict[str, Tensor]]:
    return [inputs(tiny_model("bert"), (9, 5, 12), seed=seed) for seed in range(3)]


def projection(model: PreTrainedModel, site: str) -> torch.nn.Linear:
    layer = model.bert.encoder.layer[int(site.split(".")[2])]
    found: torch.nn.Linear = (layer.attention if site.endswith("attention") else layer).output.dense
    return found


def read_by(model: PreTrainedModel, batches: list[dict[str, Tensor]], site: str) -> Tensor:
    """What an output projection reads of all real tokens, `(tokens, features)`, float64."""
    seen: list[Tensor] = []
    handle = projection(model, site).register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    real = [hidden[batch["attention_mask"].bool()] for hidden, batch in zip(seen, batches, strict=True)]
    return torch.cat(real).double()


def pruner_of(model: PreTrainedModel, batches: list[dict[str, Tensor]], method: str, **options: Any) -> Pruner:
    return Pruner(model, batches, method=method, calibration_tokens=None, options=options)


def units_of(site: str, by_feature: Tensor) -> list[Tensor]:
    return list(by_feature.chunk(HEADS) if site.endswith("attention") else by_feature.split(1))


def test_activity_is_mean_and_variance_of_real_tokens(model: PreTrainedModel, batches: Any) -> None:
    found = pruner_of(model, batches, "flap").measured
    for site in SITES:
        rows = read_by(model, batches, site)
        torch.testing.assert_close(found[site].mean, rows.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[site].variance, rows.var(0), rtol=1e-3, atol=1e-5)


def test_wanda_sp_removes_the_least_of_weight_times_norm_alike_in_every_sublayer(
    model: PreTrainedModel, batches: Any
) -> None:
    result = pruner_of(model, batches, "wanda_sp").prune(Budget(flops=0.5))
    for site in SITES:
        norm = read_by(model, batches, site).square().mean(0).sqrt()
        size = projection(model, site).weight.detach().abs().sum(0)
        score = [float(part.sum()) for part in units_of(site, norm * size)]
        mask = result.masks[site].tolist()
        kept, gone = (
            [value for value, stays in zip(score, mask, strict=True) if stays == which] for which in (True, False)
        )
        assert abs(len(kept) - 0.5 * len(score)) <= 1, site
        assert min(kept) > max(gone), site


def test_flap_compares_standardised_fluctuation_over_all_sublayers(model: PreTrainedModel, batches: Any) -> None:
    result = pruner_of(model, batches, "flap").prune(Budget(flops=0.5))
    kept, gone = [], []
    for site in SITES:
        fluctuation = read_by(model, batches, site).var(0) * projection(model, site).weight.detach().square().sum(0)
        standardised = (fluctuation - fluctuation.mean()) / fluctuation.std()
        for part, stays in zip(units_of(site, standardised), result.masks[site].tolist(), strict=True):
            (kept if stays else gone).append((float(part.mean()), site.rpartition(".")[2]))
    for kind in ("attention", "ffn"):  # a head may no longer fit where a neuron does
        assert min(value for value, of in kept if of == kind) > max(value for value, of in gone if of == kind)


@pytest.mark.parametrize("compensate", [True, False])
def test_flap_puts_what_removed_units_wrote_on_average_into_the_bias(
    model: PreTrainedModel, batches: Any, compensate: bool
) -> None:
    """Four neurons are large and constant: no fluctuation, so they go, and nothing is lost by it."""
    pruner = pruner_of(model, batches, "flap", compensate=compensate)
    small = pruner.prune(None, Sizes(sites={"2": {"neurons": 20}}))
    assert not small.masks["encoder.layer.2.ffn"][:4].any()
    with torch.no_grad():
        lost = max(float((small.model(**batch).logits - model(**batch).logits).abs().max()) for batch in batches)
    assert (lost < 1e-3) is compensate


def test_compensation_is_the_mean_of_what_goes(model: PreTrainedModel, batches: Any) -> None:
    result = pruner_of(model, batches, "flap").prune(Budget(flops=0.4))
    for site in SITES:
        gone = ~result.masks[site].repeat_interleave(8 if site.endswith("attention") else 1)
        dense = projection(model, site)
        lost = read_by(model, batches, site).mean(0)[gone] @ dense.weight.double().T[gone]
        added = projection(result.model, site).bias.double() - dense.bias.double()
        torch.testing.assert_close(added, lost, rtol=1e-4, atol=1e-4)


def test_shortgpt_drops_the_layer_that_turns_the_stream_least(model: PreTrainedModel, batches: Any) -> None:
    pruner = pruner_of(model, batches, "shortgpt")
    sums, tokens = [0.0] * BLOCKS, 0
    with torch.no_grad():
        for batch in batches:
            states = model(**batch, output_hidden_states=True).hidden_states
            real = batch["attention_mask"].bool()
            tokens += int(real.sum())
            for block in range(BLOCKS):
                pair = states[block][real].double(), states[block + 1][real].double()
                sums[block] += float(torch.nn.functional.cosine_similarity(*pair, dim=-1).sum())
    expected = [1 - total / tokens for total in sums]
    assert [float(pruner.measured[site].influence) for site in SITES[::2]] == pytest.approx(expected, rel=1e-4)
    order = sorted(range(BLOCKS), key=expected.__getitem__)
    for share, layers in ((0.99, 1), (0.66, 2), (0.4, 2), (0.3, 3)):
        masks = pruner.prune(Budget(flops=share)).masks
        assert {block for block in range(BLOCKS) if not masks[SITES[2 * block]].any()} == set(order[:layers]), share
        assert all(mask.all() or not mask.any() for mask in masks.values())
