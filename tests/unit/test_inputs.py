from __future__ import annotations

from typing import Any

import pytest
import torch

from tiny_models import tiny_model
from trimformer import Budget, prune
from trimformer.data.batches import rows_at_once
from trimformer.data.given import calibration_batches
from trimformer.errors import DataError, InvalidOption, NumericalError

CPU = torch.device("cpu")


def test_padding_of_given_rows_is_neither_counted_nor_computed() -> None:
    rows = [{"input_ids": [2, 7, 8, 3, 0, 0], "attention_mask": [1, 1, 1, 1, 0, 0], "label": 1} for _ in range(4)]
    batches = calibration_batches(rows, None, 12, 0, CPU)
    assert sum(len(batch["input_ids"]) for batch in batches) == 3
    assert all(batch["input_ids"].shape[1] == 4 for batch in batches)
    assert all("label" not in batch for batch in batches)


def test_one_string_is_refused() -> None:
    with pytest.raises(DataError, match="give a list of texts"):
        calibration_batches("rows.jsonl", None, None, 0, CPU)


def test_a_batch_row_of_padding_is_refused() -> None:
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}
    with pytest.raises(DataError, match="all padding"):
        calibration_batches([batch], None, None, 0, CPU)


@pytest.mark.parametrize(("ids", "message"), [([2, 10**6, 3], "vocabulary"), ([2, *[5] * 2000, 3], "reads at most")])
def test_rows_that_the_model_cannot_read_are_refused(tiny_bert, ids: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prune(tiny_bert(), [{"input_ids": ids}], budget=Budget(flops=0.5), calibration_tokens=None)


@pytest.mark.parametrize(("architecture", "longest"), [("bert", 64), ("roberta", 64), ("gpt2", 64)])
def test_rows_and_the_length_of_the_workload_end_where_the_positions_do(architecture: str, longest: int) -> None:
    model, budget = tiny_model(architecture), Budget(flops=0.9)
    rows = [{"input_ids": [5] * longest}] * 4
    prune(model, rows, budget=budget, calibration_tokens=None, method="random", sequence_length=longest)
    with pytest.raises(DataError, match=f"reads at most {longest}"):
        prune(model, [{"input_ids": [5] * (longest + 1)}], budget=budget, calibration_tokens=None)
    with pytest.raises(InvalidOption, match=f"sequence_length.*at most {longest}"):
        prune(model, rows, budget=budget, calibration_tokens=None, sequence_length=longest + 1)


def test_time_is_measured_on_fewer_rows_where_they_are_long_or_have_many_logits() -> None:
    assert rows_at_once(tiny_model("bert"), 20.4) == 32
    assert rows_at_once(tiny_model("bert"), 1024) == 8
    language_model = tiny_model("gpt2", "language model", vocab_size=50_000)
    assert rows_at_once(language_model, 1024) == 2
    assert rows_at_once(language_model, 10_000) == 1


def test_nan_in_a_block_names_the_site_where_it_shows_first(tiny_bert) -> None:
    model = tiny_bert()
    norm = model.base_model.encoder.layer[1].attention.output.LayerNorm
    norm.eps = -1e9
    with pytest.raises(NumericalError, match=r"encoder\.layer\.1\.ffn"):
        prune(model, [{"input_ids": [2, 5, 6, 3]}], budget=Budget(flops=0.5), calibration_tokens=None)


@pytest.mark.parametrize("method", ["surgeon", "kprune"])
def test_a_single_short_row_is_enough_not_to_crash(tiny_bert, method: str) -> None:
    for seed in range(8):
        torch.manual_seed(seed)
        rows = [{"input_ids": [2, *torch.randint(5, 40, (5,)).tolist(), 3]}]
        result = prune(tiny_bert(), rows, budget=Budget(flops=0.5), method=method, calibration_tokens=None)
        assert result.manifest["warnings"]


IDS = [5, 6, 7]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([{"input_ids": IDS, "attention_mask": [1, 1]}], "a row has 3 input_ids, but 2 in attention_mask"),
        ([{"input_ids": []}], "has no tokens"),
        ([{"input_ids": IDS, "attention_mask": [0, 0, 0]}], "all padding"),
        ([{"input_ids": torch.ones(2, 4), "attention_mask": torch.ones(2, 3)}], r"\(2, 4\) and attention_mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused(data: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(DataError, match=says):
        calibration_batches(data, None, None, 0, torch.device("cpu"))
