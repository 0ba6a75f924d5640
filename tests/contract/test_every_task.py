"""What every task promises: features without labels, and metrics that depend on the rows alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conftest import TinyBert
from tiny_models import tiny_model
from trimformer import plugins
from trimformer.data import batches
from trimformer.data.rows import LABELS as LABEL_NAMES
from trimformer.data.rows import MODEL_INPUTS, choices
from trimformer.errors import LabelError
from trimformer.judging import evaluation
from trimformer.judging.metrics import Metrics
from trimformer.judging.task import Task, fitted_to

SENTENCES = [
    "the red cat saw a dog",
    "house",
    "who built the old city in the river",
    "a tree",
    "what is blue?",
    "the dog was in the small green house " * 6,
    "where is the big tree",
]
OTHERS = [f"the {sentence}" for sentence in reversed(SENTENCES)]
COLUMNS = {
    "text": SENTENCES,
    "sentence": SENTENCES,
    "sentence1": SENTENCES,
    "sentence2": OTHERS,
    "question1": SENTENCES,
    "question2": OTHERS,
    "premise": SENTENCES,
    "hypothesis": OTHERS,
    "question": OTHERS,
    "context": SENTENCES,
    "query": OTHERS,
    "positives": [[sentence] for sentence in SENTENCES],
    "negatives": [[sentence] for sentence in OTHERS[1:] + OTHERS[:1]],
    "choices": [[sentence, "the tree"] for sentence in SENTENCES],
    "tokens": [sentence.split() for sentence in SENTENCES],
}
"""The columns of every task at once; a task takes what it knows."""
UNLABELLED = [
    plugins.load("tasks", name)
    for name in ("text", "embedding", "reranking", "fill_mask", "last_word", "likelihood_choice")
]
LABELS = {
    "label": [0, 1, 1, 0, 1, 0, 1],
    "ner_tags": [[number % 2 for number in range(len(row.split()))] for row in SENTENCES],
    "answers": [{"text": [row.split()[-1]], "answer_start": [0]} for row in SENTENCES],
}


@pytest.fixture(params=plugins.names("tasks"))
def task(request: pytest.FixtureRequest) -> Task:
    return plugins.load("tasks", request.param)


@pytest.fixture
def build(task: Task, tiny_bert: TinyBert) -> TinyBert:
    if for_decoders(task):
        return lambda **options: tiny_model("gpt2", "language model", **options)
    head = (task.auto_class or "AutoModelForSequenceClassification").partition("For")[2] or None
    return partial(tiny_bert, head, num_labels=getattr(task, "num_labels", 2))


def for_decoders(task: Task) -> bool:
    return task.auto_class == "AutoModelForCausalLM"


def reads_one_text(task: Task) -> bool:
    """Whether its rows are parts of one text, which a language model goes on with token by token."""
    return "perplexity" in task.metrics and for_decoders(task)


@pytest.fixture
def columns(task: Task) -> dict[str, Any]:
    """The columns of every task at once; texts of two words or more where one is to be foreseen."""
    return COLUMNS | ({"text": OTHERS} if task is plugins.load("tasks", "last_word") else {})


@pytest.fixture
def labelled(columns: dict[str, Any]) -> Dataset:
    return Dataset.from_dict({**columns, **LABELS})


@pytest.fixture
def metrics(task: Task, build: TinyBert, tokenizer: PreTrainedTokenizerBase, labelled: Dataset) -> Metrics:
    return task.evaluate(build(), tokenizer, labelled, dense=build(seed=1))


def test_it_says_what_it_is(task: Task) -> None:
    assert task.description
    assert "\n" not in task.description


def test_features_need_no_labels(
    task: Task, tokenizer: PreTrainedTokenizerBase, columns: dict[str, Any], labelled: Dataset
) -> None:
    features = task.encode(Dataset.from_dict(columns), tokenizer)
    assert features == task.encode(labelled, tokenizer)
    assert len(features) >= len(SENTENCES)
    for row in features:
        assert set(row) == {"input_ids", "attention_mask"} | (set() if for_decoders(task) else {"token_type_ids"})
        sequences = choices(row)
        for name in row:
            assert [len(values) for values in choices(row, name)] == [len(tokens) for tokens in sequences]
        assert all(0 < len(tokens) <= tokenizer.model_max_length for tokens in sequences)
        assert all(isinstance(token, int) for tokens in sequences for token in tokens)
    assert max(len(own) for row in task.encode(labelled, tokenizer, max_length=16) for own in choices(row)) == 16


def test_labels_come_only_where_asked_for(task: Task, tokenizer: PreTrainedTokenizerBase, labelled: Dataset) -> None:
    if reads_one_text(task):
        assert all(row["labels"] == row["input_ids"] for row in task.encode(labelled, tokenizer, labels=True))
        return
    unlabelled = Dataset.from_dict({**COLUMNS, "label": [-1] * 7, "answers": [None] * 7, "ner_tags": [None] * 7})
    for rows in (Dataset.from_dict(COLUMNS), unlabelled):
        with pytest.raises(LabelError):
            task.encode(rows, tokenizer, labels=True)
    if task in UNLABELLED:
        with pytest.raises(LabelError, match="choose a task that has"):
            task.encode(labelled, tokenizer, labels=True)
        return
    features = task.encode(labelled, tokenizer, labels=True)
    assert [{name: row[name] for name in MODEL_INPUTS if name in row} for row in features] == task.encode(
        labelled, tokenizer
    )
    assert all(set(row) & set(LABEL_NAMES) for row in features)


def test_metrics_are_finite_and_inside_their_interval(
    task: Task, metrics: Metrics, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert metrics
    for metric in metrics.values():
        assert np.isfinite([metric.value, metric.low, metric.high]).all()
        assert metric.low <= metric.value <= metric.high
    text = tokenizer("".join(SENTENCES), add_special_tokens=False, verbose=False)["input_ids"]
    predicted = len(text) - -(-len(text) // tokenizer.model_max_length)  # all but the first token of each window
    assert next(iter(metrics.values())).sample_size == (predicted if reads_one_text(task) else len(SENTENCES))


def test_batch_size_does_not_matter(
    task: Task,
    build: TinyBert,
    tokenizer: PreTrainedTokenizerBase,
    labelled: Dataset,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = partial(batches.length_sorted_indices, max_rows=1)
    monkeypatch.setattr(evaluation, "length_sorted_indices", alone)
    assert_same(task.evaluate(build(), tokenizer, labelled, dense=build(seed=1)), metrics, interval=True)


def test_row_order_does_not_matter(
    task: Task, build: TinyBert, tokenizer: PreTrainedTokenizerBase, labelled: Dataset, metrics: Metrics
) -> None:
    if reads_one_text(task):
        pytest.skip("in another order it is another text")
    shuffled = labelled.select(np.random.default_rng(0).permutation(len(labelled)))
    assert_same(task.evaluate(build(), tokenizer, shuffled, dense=build(seed=1)), metrics, interval=False)


def test_metrics_are_named_before_any_model_is_judged(task: Task, build: TinyBert, metrics: Metrics) -> None:
    assert set(metrics) <= set(fitted_to(task, build().config).metrics)


def test_evaluation_leaves_the_models_as_they_were(
    task: Task, build: TinyBert, tokenizer: PreTrainedTokenizerBase, labelled: Dataset
) -> None:
    models: list[PreTrainedModel] = [build().train(), build(seed=1).train()]
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    task.evaluate(models[0], tokenizer, labelled, dense=models[1])
    for model, weights in zip(models, before, strict=True):
        assert all(module.training for module in model.modules())
        assert all(bool((value == weights[name]).all()) for name, value in model.state_dict().items())


def assert_same(found: Metrics, expected: Metrics, *, interval: bool) -> None:
    assert list(found) == list(expected)
    for name, metric in found.items():
        assert metric.value == pytest.approx(expected[name].value, rel=1e-6, abs=1e-5)
        assert metric.sample_size == expected[name].sample_size
        if interval:
            assert (metric.low, metric.high) == pytest.approx(
                (expected[name].low, expected[name].high), rel=1e-5, abs=1e-5
            )
