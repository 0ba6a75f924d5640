"""Masked tokens are the same ones always, and judged as a plain loop over them does."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from conftest import TinyBert, build_tokenizer
from trimformer import plugins
from trimformer.errors import DataError, InvalidOption, UnsupportedModel
from trimformer.tasks.fill_mask import masked_places

TASK = plugins.load("tasks", "fill_mask")
ROWS = Dataset.from_dict({"text": ["the red cat saw a dog in the old city", "tree", "who built the big green river"]})


def test_places_are_ordinary_tokens_by_the_tokens_alone() -> None:
    tokens = [2, *range(10, 50), 3]
    places = masked_places(tokens, [0, 1, 2, 3])
    assert len(places) == 6
    assert places == masked_places(list(tokens), [3, 2, 1, 0]) == sorted(set(places))
    assert all(tokens[place] >= 10 for place in places)
    assert masked_places([*tokens[:-1], 60, 3], [2, 3]) != places
    assert masked_places([2, 9, 3], [2, 3]) == [1]
    assert masked_places([2, 3], [2, 3]) == []


def test_metrics_are_those_of_a_loop(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_bert("MaskedLM")
    right, losses = [], []
    for row in TASK.encode(ROWS, tokenizer):
        assert tokenizer.mask_token_id not in row["input_ids"]
        for place in (places := masked_places(row["input_ids"], tokenizer.all_special_ids)):
            masked = [tokenizer.mask_token_id if n in places else token for n, token in enumerate(row["input_ids"])]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([masked])).logits[0, place]
            right.append(float(logits.argmax() == row["input_ids"][place]))
            losses.append(-float(logits.log_softmax(-1)[row["input_ids"][place]]))
    found = TASK.evaluate(model, tokenizer, ROWS)
    assert found["accuracy"].value == pytest.approx(sum(right) / len(right))
    assert found["perplexity"].value == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert found["accuracy"].sample_size == 3
    assert found["perplexity"].sample_size == len(losses)


def test_masks_that_a_text_has_itself_are_not_judged(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    model, mask = tiny_bert("MaskedLM"), tokenizer.mask_token
    rows = Dataset.from_dict({"text": [f"the {mask} cat saw a dog {mask}", f"{mask} tree", "who built the big river"]})
    right, losses = [], []
    for row in TASK.encode(rows, tokenizer):
        places = masked_places(row["input_ids"], tokenizer.all_special_ids)
        masked = [tokenizer.mask_token_id if n in places else token for n, token in enumerate(row["input_ids"])]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([masked])).logits[0]
        right += [float(logits[place].argmax() == row["input_ids"][place]) for place in places]
        losses += [-float(logits[place].log_softmax(-1)[row["input_ids"][place]]) for place in places]
    found = TASK.evaluate(model, tokenizer, rows)
    assert found["perplexity"].sample_size == len(losses) == 3
    assert found["accuracy"].value == pytest.approx(sum(right) / len(right))
    assert found["perplexity"].value == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


def test_rows_without_a_word_that_is_known_are_left_out(
    tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
) -> None:
    model, unknown = tiny_bert("MaskedLM"), ["☃", "⟁ ☃"]
    some = Dataset.from_dict({"text": [unknown[0], *ROWS["text"], unknown[1]]})
    assert TASK.evaluate(model, tokenizer, some) == TASK.evaluate(model, tokenizer, ROWS)
    with pytest.raises(DataError, match="no row has a token that can be masked"):
        TASK.evaluate(model, tokenizer, Dataset.from_dict({"text": unknown}))


def test_what_has_no_masks_is_refused(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UnsupportedModel, match="does not predict tokens"):
        TASK.evaluate(tiny_bert(), tokenizer, ROWS)
    with pytest.raises(InvalidOption, match="has no mask token"):
        TASK.evaluate(tiny_bert("MaskedLM"), build_tokenizer(mask_token=None), ROWS)
