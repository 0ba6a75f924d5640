"""Varied text: what stays as it was, what changes how often, and where the new words come from."""

from __future__ import annotations

import pytest
import torch

from trimformer.data.rows import Batch
from trimformer.data.varying import REPLACED, SPLICED, can_vary, varied

BEGIN, END = 1, 2


def batch(rows: int, length: int, words: range, seed: int = 0) -> Batch:
    """Rows of begin, words, end and padding, the second one shorter by three."""
    ids = torch.randint(words.start, words.stop, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    ids[:, 0], ids[:, -1] = BEGIN, END
    ids[1, -4], ids[1, -3:], mask[1, -3:] = END, 0, 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.arange(length).expand(rows, -1) % 2}


BATCHES = [batch(32, 40, range(10, 400)), batch(32, 20, range(400, 900), seed=1)]


@pytest.mark.parametrize("own", BATCHES)
def test_marks_padding_and_all_other_tensors_stay_and_words_come_from_all_rows(own: Batch) -> None:
    new = varied(BATCHES, seed=3)[next(index for index, each in enumerate(BATCHES) if each is own)]
    fixed = (own["input_ids"] == BEGIN) | (own["input_ids"] == END) | (own["attention_mask"] == 0)
    assert torch.equal(new["input_ids"][fixed], own["input_ids"][fixed])
    assert not torch.isin(new["input_ids"][~fixed], torch.tensor([0, BEGIN, END])).any()
    known = torch.cat([each["input_ids"].flatten() for each in BATCHES])
    assert torch.isin(new["input_ids"], known).all()
    assert not torch.isin(new["input_ids"], own["input_ids"]).all()
    assert all(torch.equal(new[name], own[name]) for name in ("attention_mask", "token_type_ids"))


def test_as_many_words_change_as_it_says() -> None:
    """A word changes if its row goes on as another text before it, on average for half of such a row, or by itself."""
    own = batch(2000, 60, range(10, 100_000))
    (new,) = varied([own], seed=0)
    free = (own["attention_mask"] == 1) & (own["input_ids"] > END)
    changed = (new["input_ids"] != own["input_ids"])[free].double().mean()
    assert float(changed) == pytest.approx(1 - (1 - SPLICED / 2) * (1 - REPLACED), abs=0.01)
    untouched = (new["input_ids"] == own["input_ids"])[:, 1:10].double().mean()
    assert float(untouched) > float(1 - changed), "beginnings stay more often than ends"


def test_a_row_goes_on_as_another_text_does() -> None:
    stream = torch.arange(10, 1210)
    own = {"input_ids": stream.view(30, 40), "attention_mask": torch.ones(30, 40, dtype=torch.long)}
    (new,) = varied([own], seed=0)
    follows = (new["input_ids"].diff(dim=1) == 1).double().mean()
    assert float(follows) == pytest.approx((1 - REPLACED) ** 2, abs=0.05)


def test_the_seed_decides_and_what_was_given_is_left_alone() -> None:
    before = [each["input_ids"].clone() for each in BATCHES]
    first, again, other = (varied(BATCHES, seed=seed)[0]["input_ids"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(torch.equal(each["input_ids"], kept) for each, kept in zip(BATCHES, before, strict=True))


def test_choices_keep_their_shape() -> None:
    own = {name: values.view(16, 2, -1) for name, values in BATCHES[0].items()}
    assert varied([own], seed=0)[0]["input_ids"].shape == own["input_ids"].shape


def test_rows_of_marks_alone_have_nothing_to_vary() -> None:
    own = {"input_ids": torch.full((4, 3), 7), "attention_mask": torch.ones(4, 3, dtype=torch.long)}
    assert torch.equal(varied([own], seed=0)[0]["input_ids"], own["input_ids"])


def test_only_text_varies() -> None:
    assert can_vary(BATCHES)
    assert not can_vary([{"pixel_values": torch.zeros(2, 3, 8, 8)}])
    assert not can_vary([*BATCHES, BATCHES[0] | {"pixel_values": torch.zeros(32, 3, 8, 8)}])
