"""Multiple choice: a row is several sequences, which the model reads side by side and chooses one of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tiny_models import tiny_model
from trimformer.data.batches import length_sorted_indices, make_batches, padded_tokens, split_batches
from trimformer.data.given import calibration_batches
from trimformer.data.labels import pad_labels
from trimformer.data.rows import Batch, Features, content, token_count
from trimformer.errors import DataError
from trimformer.methods.mask_tuning import MaskTuning
from trimformer.model.structure import Structure, read_structure
from trimformer.observing.calibration import Calibration
from trimformer.observing.predictions import fisher_loss, predictions, task_loss
from trimformer.observing.watching import frozen

ROWS: list[Features] = [
    {"input_ids": [[5, 6, 7], [5, 6, 7, 8, 9]], "labels": 1},
    {"input_ids": [[9, 10, 11, 12], [9, 10]], "labels": 0},
    {"input_ids": [[13, 14, 15, 16, 17, 18], [13, 14, 15], [19, 20]], "labels": 2},
]
"""Two rows of two choices, one of three; choices of a row differ in length."""


@pytest.fixture
def structure() -> Structure:
    return read_structure(tiny_model("bert", "multiple choice"))


def batches_of(rows: list[Features], **options: bool) -> list[Batch]:
    return calibration_batches(rows, None, None, 0, torch.device("cpu"), **options)


def test_a_row_is_all_of_its_choices() -> None:
    assert [token_count(row) for row in ROWS] == [10, 8, 18]
    assert content(ROWS[0]) == (5, 6, 7, 5, 6, 7, 8, 9)
    assert length_sorted_indices(ROWS) == [[0, 1], [2]]


def test_batches_have_as_many_choices_in_every_row() -> None:
    two, three = batches_of(ROWS)
    assert two["input_ids"].tolist() == [[[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]], [[9, 10, 11, 12, 0], [9, 10, 0, 0, 0]]]
    assert two["attention_mask"].sum(-1).tolist() == [[3, 5], [4, 2]]
    assert three["input_ids"].shape == (1, 3, 6)
    assert padded_tokens(two) == 20
    assert [len(part["input_ids"]) for part in split_batches([two], 10)] == [1, 1]


def test_padding_of_choices_is_taken_out_and_labels_stay() -> None:
    padded = {"input_ids": [[5, 6, 0], [7, 0, 0]], "attention_mask": [[1, 1, 0], [1, 0, 0]], "labels": 1}
    (batch,) = batches_of([padded], labels=True)
    assert batch["input_ids"].tolist() == [[[5, 6], [7, 0]]]
    assert batch["attention_mask"].tolist() == [[[1, 1], [1, 0]]]
    assert batch["labels"].tolist() == [1]


def test_a_row_without_a_token_is_refused() -> None:
    ids = torch.ones(2, 2, 3, dtype=torch.long)
    mask = ids.clone()
    mask[1] = 0
    with pytest.raises(DataError, match="all padding"):
        calibration_batches([{"input_ids": ids, "attention_mask": mask}], None, None, 0, torch.device("cpu"))


def test_statistics_are_those_of_the_choices_as_sequences(structure: Structure) -> None:
    """The encoder alone, given every choice as a row of its own, shows its consumers the same."""
    batches = batches_of(ROWS)
    flat = [{name: values.flatten(0, 1) for name, values in batch.items()} for batch in batches]
    encoder = read_structure(structure.model.base_model)
    given = ((structure, batches), (encoder, flat))
    found = [Calibration(model, read, 0, lambda items, _: items) for model, read in given]
    assert found[0].tokens == found[1].tokens == 25
    assert found[0].mean_length == found[1].mean_length == pytest.approx(25 / 7)
    assert (found[0].sequences, found[1].sequences) == (3, 7)
    sums = [
        calibration.collect(
            calibration.dense.sites,
            lambda site: {"sum": torch.zeros(site.features, dtype=torch.float64)},
            inputs=lambda total, seen: total["sum"].add_(seen.rows.double().sum(0)),
        )
        for calibration in found
    ]
    for site, alone in zip(structure, encoder, strict=True):
        torch.testing.assert_close(sums[0][site.name]["sum"], sums[1][alone.name]["sum"], atol=1e-5, rtol=0)


def test_gradients_of_masks_are_those_of_rows(structure: Structure) -> None:
    """Against masks that are variables: the choices of a row share one loss."""
    rows = ROWS[:2]
    (batch,), labels = batches_of(rows), pad_labels(rows, "cpu")
    calibration = Calibration(structure, [batch], 0, lambda items, _: items, labels=[labels])
    with frozen(structure.model):
        measured = MaskTuning(minibatch=1).measure(calibration)
    site = structure.sites[0]
    mask = torch.ones(len(rows), site.units, requires_grad=True)

    def multiply(_: torch.nn.Module, inputs: tuple[Tensor]) -> Tensor:
        by_sequence = mask.repeat_interleave(2, dim=0).repeat_interleave(site.unit_width, dim=1)
        return inputs[0] * by_sequence[:, None]

    handle = structure.consumer(site).register_forward_pre_hook(multiply)
    loss = task_loss(predictions(structure.model(**batch), batch, structure.model), labels)
    handle.remove()
    loss.sum().backward()
    assert mask.grad is not None
    expected, found = (sorted(values.tolist()) for values in (mask.grad, measured[site.name].gradients))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-6, rtol=1e-4)


def test_a_row_says_the_same_in_any_batch(structure: Structure) -> None:
    (both,) = batches_of(ROWS[:2])
    alone = [make_batches([row], None, "cpu")[0] for row in ROWS[:2]]

    def losses(batch: Batch) -> Tensor:
        return fisher_loss(predictions(structure.model(**batch), batch, structure.model), batch, seed=3)

    torch.testing.assert_close(losses(both), torch.cat([losses(batch) for batch in alone]), atol=1e-5, rtol=0)
    assert losses(both).abs().min() > 0
