"""Tags of words: aligned with tokens, counted as seqeval counts, whatever the scheme."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from conftest import TinyBert, build_tokenizer
from trimformer import plugins
from trimformer.errors import DataError, UnsupportedModel
from trimformer.tasks.token_classification import TokenClassification, entities

TASK: TokenClassification = plugins.load("tasks", "token_classification")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
NAMES = {"id2label": dict(enumerate(TAGS)), "label2id": {tag: number for number, tag in enumerate(TAGS)}}
WORDS = [["who", "saw", "Xylo", "in", "blue", "river"], ["old", "tree", "!"], ["cat"]]
GIVEN = [["O", "O", "B-PER", "O", "B-LOC", "I-LOC"], ["B-LOC", "I-LOC", "O"], ["O"]]
ROWS = Dataset.from_dict({"tokens": WORDS, "tags": GIVEN})


def random_tags(seed: int) -> list[list[str]]:
    generator = np.random.default_rng(seed)
    tags = ["O", *(f"{mark}-{kind}" for mark in "BIES" for kind in ("PER", "LOC"))]
    return [list(generator.choice(tags, generator.integers(1, 9))) for _ in range(200)]


def test_entities_are_those_of_seqeval() -> None:
    labelling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    for row in random_tags(0):
        assert entities(row) == set(labelling.get_entities(row)), row


def test_entities_by_hand() -> None:
    assert entities(["I-PER", "I-PER", "I-LOC", "O", "S-LOC", "E-LOC"]) == {
        ("PER", 0, 1),
        ("LOC", 2, 2),
        ("LOC", 4, 4),
        ("LOC", 5, 5),
    }
    assert entities(["O", "O"]) == set()


class TestAlignment:
    def test_first_tokens_have_the_tags(self, tokenizer: PreTrainedTokenizerBase, tiny_bert: TinyBert) -> None:
        task = TASK.for_model(tiny_bert("TokenClassification", **NAMES).config)
        row = task.encode(ROWS, tokenizer, labels=True)[0]
        tokens = tokenizer.convert_ids_to_tokens(row["input_ids"])
        tagged = [(token, TAGS[tag]) for token, tag in zip(tokens, row["labels"], strict=True) if tag != -100]
        assert tagged == list(zip(["who", "saw", "x", "in", "blue", "river"], GIVEN[0], strict=True))
        assert tokens[:6] == ["[CLS]", "who", "saw", "x", "##y", "##l"]

    def test_words_may_be_one_text_and_tags_numbers(self, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = Dataset.from_dict({"words": ["old tree"], "labels": [[3, 4]]})
        assert [tag for tag in TASK.encode(rows, tokenizer, labels=True)[0]["labels"] if tag != -100] == [3, 4]
        model = TASK.for_rows(Dataset.from_dict({"words": ["old tree"], "tags": ["B-LOC O"]}))
        assert model.head_config["label2id"] == {"B-LOC": 0, "O": 1}

    @pytest.mark.parametrize(
        ("tags", "said"),
        [
            ([["O"]], "row 1 is 1 tags for 2 words"),
            ([None], "row 1 is unlabelled"),
            ([["O", "B-ORG"]], r"row 1: 'tags' is 'B-ORG', none of the model's classes, O, B-PER.*\(5\)"),
        ],
    )
    def test_wrong_tags(self, tags: list[Any], said: str, tiny_bert: TinyBert) -> None:
        task = TASK.for_model(tiny_bert("TokenClassification", **NAMES).config)
        with pytest.raises(DataError, match=said):
            task.tags(Dataset.from_dict({"words": [["old", "tree"]], "tags": tags}))

    def test_rows_without_words(self) -> None:
        for words in ([[]], [None], [""]):
            with pytest.raises(DataError, match=r"row 1: 'words' is .* not a list of words"):
                TASK.encode(Dataset.from_dict({"words": words}), build_tokenizer())


class TestMetrics:
    def test_against_seqeval(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        metrics = pytest.importorskip("seqeval.metrics")
        model = tiny_bert("TokenClassification", **NAMES)
        found = TASK.evaluate(model, tokenizer, ROWS)
        predicted = []
        for words in WORDS:
            encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
            with torch.no_grad():
                tags = model(**encoded).logits[0].argmax(-1).tolist()
            places = encoded.word_ids(0)
            predicted.append([TAGS[tags[places.index(word)]] for word in range(len(words))])
        assert any(tag != "O" for row in predicted for tag in row)
        assert found["f1"].value == pytest.approx(metrics.f1_score(GIVEN, predicted))
        assert found["precision"].value == pytest.approx(metrics.precision_score(GIVEN, predicted))
        assert found["recall"].value == pytest.approx(metrics.recall_score(GIVEN, predicted))
        assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(GIVEN, predicted))
        assert found["f1"].sample_size == 3

    def test_a_model_that_is_always_right(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        model = tiny_bert("TokenClassification", **NAMES)
        model.classifier.bias.data[3] = 1e4
        rows = Dataset.from_dict({"tokens": [["old", "cat"]], "tags": [["B-LOC", "B-LOC"]]})
        assert TASK.evaluate(model, tokenizer, rows)["f1"].value == 1
        cut_off = Dataset.from_dict({"tokens": [["cat"] * 9], "tags": [["B-LOC"] * 9]})
        found = TASK.evaluate(model, tokenizer, cut_off, max_length=8)
        assert found["recall"].value == pytest.approx(6 / 9)
        assert found["precision"].value == 1

    def test_tags_that_mark_no_entities(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = Dataset.from_dict({"tokens": [["old", "cat"]], "tags": [["noun", "NOUN"]]})
        model = tiny_bert("TokenClassification", id2label={0: "VERB", 1: "NOUN"}, label2id={"VERB": 0, "NOUN": 1})
        assert list(TASK.evaluate(model, tokenizer, rows)) == ["accuracy"]

    def test_other_models_are_refused(self, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = Dataset.from_dict({"tokens": [["old", "cat"]], "tags": [[0, 1]]})
        with pytest.raises(UnsupportedModel, match="does not classify tokens"):
            TASK.evaluate(tiny_bert(), tokenizer, rows)
