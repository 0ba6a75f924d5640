"""What a decoder finds likely after a text, against a count token by token; last words and choices made of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conftest import SPECIAL, build_tokenizer
from tiny_models import tiny_model
from trimformer import plugins
from trimformer.errors import DataError, LabelError, UnsupportedModel
from trimformer.judging.continuation import Scored, continuation, scored

LAST_WORD, CHOICE = plugins.load("tasks", "last_word"), plugins.load("tasks", "likelihood_choice")
PAIRS = [("the red cat saw", " a dog"), ("who", " built the old house"), ("a river was", " big"), ("the tree", " in")]

VOCABULARY = [word for word in build_tokenizer().get_vocab() if word.isalpha()]


@pytest.fixture(params=[False, True], ids=["plain", "with a first token"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return build_tokenizer(bos_token=SPECIAL["cls_token"]) if request.param else build_tokenizer()


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return tiny_model("llama", "language model", vocab_size=len(tokenizer))


@torch.no_grad()
def by_hand(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, before: str, after: str) -> Scored:
    """Feed a token at a time, unpadded."""
    first = tokenizer("")["input_ids"][:1]
    ids = first if first == [tokenizer.bos_token_id] else []
    ids = [*ids, *tokenizer(before, add_special_tokens=False)["input_ids"]]
    total, foreseen = 0.0, True
    for token in tokenizer(after.strip(), add_special_tokens=False)["input_ids"]:
        logs = model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
        total += float(logs[token])
        foreseen &= int(logs.argmax()) == token
        ids.append(token)
    return Scored(total, foreseen)


@torch.no_grad()
def likeliest_word(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, before: str) -> str | None:
    """The word that the model goes on with, or None if it is no word."""
    ids = continuation(before, " cat", tokenizer, 64).ids[:-1]
    found: str = tokenizer.decode(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
    return found if found in VOCABULARY else None


def test_scores_are_those_counted_token_by_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    found = scored(model, tokenizer, [continuation(*pair, tokenizer, 64) for pair in PAIRS])
    for pair, own in zip(PAIRS, found, strict=True):
        expected = by_hand(model, tokenizer, *pair)
        assert own.log_probability == pytest.approx(expected.log_probability, rel=1e-5)
        assert own.foreseen == expected.foreseen


def test_what_is_too_long_loses_its_first_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    whole, cut = (continuation("the red cat saw a", " big dog", tokenizer, length) for length in (64, 4))
    assert cut.ids == whole.ids[-4:]
    assert cut.new == whole.new == 2


@pytest.mark.parametrize(("before", "after", "length"), [("the cat", "", 64), ("the", " old red cat saw", 3)])
def test_nothing_to_predict_is_told(before: str, after: str, length: int) -> None:
    with pytest.raises(DataError, match="nothing to predict"):
        continuation(before, after, build_tokenizer(), length)


def test_a_word_is_foreseen_if_all_its_tokens_are(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """The model's own continuation is put at the end of some passages, another word at that of others."""
    likeliest = {f"the {word}": likeliest_word(model, tokenizer, f"the {word}") for word in VOCABULARY}
    known = {text: word for text, word in likeliest.items() if word}
    others = {text: next(word for word in VOCABULARY if word != likely) for text, likely in known.items()}
    texts = [f"{text} {word}." for text, word in known.items()]
    texts += [f"{text} {word} !" for text, word in others.items()]
    found = LAST_WORD.evaluate(model, tokenizer, Dataset.from_dict({"text": texts}))["accuracy"]
    assert (found.value, found.sample_size) == (0.5, 2 * len(known))
    assert known


def test_choices_are_by_likelihood_whole_and_by_length(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    questions = ["the red cat", "a river was", "who built the", "the old"]
    choices = [["dog", "big old house in the city"], ["in the city", "big"], ["tree", "house", "red dog"], ["cat", "a"]]
    logs = [
        [by_hand(model, tokenizer, q, own).log_probability for own in c]
        for q, c in zip(questions, choices, strict=True)
    ]
    whole = [max(range(len(own)), key=own.__getitem__) for own in logs]
    length = [
        max(range(len(own)), key=lambda place: own[place] / len(texts[place]))
        for own, texts in zip(logs, choices, strict=True)
    ]
    assert whole != length
    for right, name in ((whole, "accuracy"), (length, "accuracy_by_length")):
        rows = Dataset.from_dict({"question": questions, "choices": choices, "label": right})
        found = CHOICE.evaluate(model, tokenizer, rows)
        assert found[name].value == 1
        assert found["accuracy"].value + found["accuracy_by_length"].value < 2
    wrong = Dataset.from_dict(
        {"question": questions, "choices": choices, "label": [1 - min(place, 1) for place in whole]}
    )
    assert CHOICE.evaluate(model, tokenizer, wrong)["accuracy"].value == 0


def test_calibration_reads_every_choice_after_its_question(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = Dataset.from_dict({"question": ["the red", "who saw"], "choices": [["cat", "dog"], ["a tree", "it", "me"]]})
    assert len(CHOICE.encode(rows, tokenizer)) == 5
    texts = [tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in CHOICE.encode(rows, tokenizer)]
    assert texts[:3] == ["the red cat", "the red dog", "who saw a tree"]


@pytest.mark.parametrize("task", [LAST_WORD, CHOICE])
def test_nothing_is_trained_on_them(task: Any) -> None:
    rows = Dataset.from_dict({"text": ["the cat"], "question": ["the"], "choices": [["cat", "dog"]], "label": [0]})
    with pytest.raises(LabelError, match="choose a task that has"):
        task.encode(rows, build_tokenizer(), labels=True)


def test_wrong_models_and_rows_are_told(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="row 2: 'cat!' has no last word"):
        LAST_WORD.evaluate(tiny_model("llama"), tokenizer, Dataset.from_dict({"text": ["the cat", "cat!"]}))
    with pytest.raises(UnsupportedModel, match="load a causal language model"):
        LAST_WORD.evaluate(tiny_model("bert"), tokenizer, Dataset.from_dict({"text": ["the cat"]}))


def test_a_uniform_model_finds_every_token_equally_likely(tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_model("llama", "language model", vocab_size=len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    (found,) = scored(model, tokenizer, [continuation("the red", " cat saw", tokenizer, 64)])
    assert found.log_probability == pytest.approx(-2 * math.log(len(tokenizer)))
