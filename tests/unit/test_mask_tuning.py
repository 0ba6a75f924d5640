"""Mask-Tuning measures derivatives of the loss by masks, over mini-batches that it draws itself."""

from __future__ import annotations

import pytest
import torch

from tiny_models import labelled, tiny_model
from trimformer import Budget
from trimformer.data.batches import pad
from trimformer.data.labels import pad_labels
from trimformer.errors import InvalidOption
from trimformer.methods.mask_tuning import MaskTuning, drawn_minibatches
from trimformer.model.masking import feature_mask
from trimformer.observing.measurements import to_tensors
from trimformer.pruning.pruner import Pruner

STEP = 1e-2


def rows(head: str) -> list[dict[str, object]]:
    lengths = (3, 9, 5, 7, 4)
    return labelled([{"input_ids": list(range(8, 8 + length))} for length in lengths], head)


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("bert", "sequence classification"),
        ("bert", "regression"),
        ("bert", "question answering"),
        ("bert", "masked language model"),
        ("gpt2", "language model"),
        ("gpt2", "sequence classification"),
    ],
)
def test_gradients_are_those_of_the_loss_by_the_masks(architecture: str, head: str) -> None:
    """By differences of transformers' own loss, which for one row is ours, with a unit a little weaker or stronger."""
    model, row = tiny_model(architecture, head), rows(head)[1:2]
    pruner = Pruner(model, row, method="mask_tuning", calibration_tokens=None)
    structure = pruner.calibration.dense
    for site in structure:
        for unit in (0, site.units - 1):
            losses = []
            for step in (STEP, -STEP):
                scale = torch.ones(site.units).index_fill(0, torch.tensor(unit), 1 + step)
                factor = feature_mask(site, scale)
                hook = structure.consumer(site).register_forward_pre_hook(lambda _, args, f=factor: args[0] * f)
                with torch.no_grad():
                    losses.append(float(model(**pad(row, None, "cpu"), **pad_labels(row, "cpu")).loss))
                hook.remove()
            expected = (losses[0] - losses[1]) / (2 * STEP)
            assert float(pruner.measured[site.name].gradients[0, unit]) == pytest.approx(expected, rel=0.02, abs=1e-3)


def test_gradients_of_a_minibatch_are_the_mean_of_its_sequences() -> None:
    model, given = tiny_model("bert"), rows("sequence classification")
    one, all_, two = (
        to_tensors(
            Pruner(model, given, method="mask_tuning", calibration_tokens=None, options={"minibatch": size}).measured
        )
        for size in (1, 5, 2)
    )
    for name, values in one.items():
        torch.testing.assert_close(all_[name], values.mean(0, keepdim=True))
        assert len(values) == 5
        assert len(two[name]) == 3


@pytest.mark.parametrize(("sequences", "size"), [(1, 32), (32, 32), (33, 32), (512, 32), (10, 1), (100, 7)])
def test_minibatches_are_as_equal_as_can_be(sequences: int, size: int) -> None:
    counts = drawn_minibatches(sequences, size, 0).bincount()
    assert int(counts.sum()) == sequences
    assert int(counts.max()) <= size
    assert int(counts.max() - counts.min()) <= 1
    assert torch.equal(drawn_minibatches(sequences, size, 3), drawn_minibatches(sequences, size, 3))


def test_exchanging_and_rescaling_can_be_left_out() -> None:
    model, given = tiny_model("bert"), rows("sequence classification")
    plain, exchanged, tuned = (
        Pruner(model, given, method="mask_tuning", calibration_tokens=None, options=options).prune(Budget(flops=0.5))
        for options in ({"rearrange": False, "tune": False}, {"tune": False}, {})
    )
    assert any(not torch.equal(plain.masks[name], mask) for name, mask in exchanged.masks.items())
    assert all(int(plain.masks[name].sum()) == int(mask.sum()) for name, mask in exchanged.masks.items())
    assert all(torch.equal(exchanged.masks[name], mask) for name, mask in tuned.masks.items())
    weights = exchanged.model.state_dict()
    assert any(not torch.equal(weights[name], value) for name, value in tuned.model.state_dict().items())


def test_options_out_of_range() -> None:
    for options in ({"minibatch": 0}, {"damping": -1.0}):
        with pytest.raises(InvalidOption, match=next(iter(options))):
            MaskTuning(**options)  # type: ignore[arg-type]
