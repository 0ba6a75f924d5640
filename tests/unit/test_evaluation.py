"""Rows come back in their order, the model as it was, and metrics equal those of scikit-learn and scipy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from conftest import TinyBert
from trimformer.data.encoding import encode_texts
from trimformer.data.rows import Batch
from trimformer.errors import DataError, NumericalError
from trimformer.judging import evaluation, statistics
from trimformer.judging.statistics import metric

TEXTS = ["the red cat saw a dog", "house", "who built the old city in the river", "a tree", "what is blue?"]


def read_logits(output: Any, _: Batch) -> Mapping[str, Tensor]:
    return {"logits": output["logits"]}


def test_rows_come_back_in_their_order(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_bert()
    features = encode_texts([TEXTS], tokenizer)
    together = evaluation.outputs_by_row(model, tokenizer, features, read_logits, max_padded_tokens=40)["logits"]
    with torch.no_grad():
        alone = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in TEXTS]
    torch.testing.assert_close(torch.stack(together), torch.stack(alone))


def test_model_mode_is_restored_even_after_an_error(tiny_bert: TinyBert) -> None:
    model = tiny_bert().train()
    model.classifier.eval()
    before = [module.training for module in model.modules()]
    with evaluation.inference(model):
        assert not any(module.training for module in model.modules())
        assert torch.is_inference_mode_enabled()
    assert [module.training for module in model.modules()] == before
    with pytest.raises((ValueError, IndexError)), evaluation.inference(model):
        model(input_ids=torch.tensor([1.5]))
    assert [module.training for module in model.modules()] == before


def test_progress_wraps_the_batches(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    seen = []

    def progress(batches: Any, title: str) -> Any:
        seen.append((len(batches), title))
        return batches

    evaluation.outputs_by_row(tiny_bert(), tokenizer, encode_texts([TEXTS], tokenizer), read_logits, progress=progress)
    assert seen == [(1, "evaluating")]


def test_no_rows_and_broken_weights_are_errors(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_bert()
    with pytest.raises(DataError, match="no rows"):
        evaluation.outputs_by_row(model, tokenizer, [], read_logits)
    model.classifier.bias.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="NaN"):
        evaluation.outputs_by_row(model, tokenizer, encode_texts([TEXTS], tokenizer), read_logits)


def test_statistics_equal_those_of_sklearn_and_scipy() -> None:
    random = np.random.default_rng(0)
    actual = random.integers(0, 2, 200)
    predicted = np.where(random.random(200) < 0.7, actual, 1 - actual)
    first = random.integers(0, 10, 200) / 2
    second = first + random.normal(size=200)
    pairs = [
        (statistics.accuracy(predicted, actual), sklearn.metrics.accuracy_score(actual, predicted)),
        (statistics.f1(predicted, actual), sklearn.metrics.f1_score(actual, predicted)),
        (statistics.matthews(predicted, actual), sklearn.metrics.matthews_corrcoef(actual, predicted)),
        (statistics.pearson(first, second), scipy.stats.pearsonr(first, second).statistic),
        (statistics.spearman(first, second), scipy.stats.spearmanr(first, second).statistic),
    ]
    for own, reference in pairs:
        assert own == pytest.approx(reference, abs=1e-12)


def test_interval_equals_a_plain_bootstrap() -> None:
    values = np.random.default_rng(1).random(300)
    resamples = np.random.default_rng(7).integers(0, 300, (1000, 300))
    low, high = np.percentile(values[resamples].mean(1), [2.5, 97.5])
    found = metric(statistics.mean, values, seed=7)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)
    assert found == metric(statistics.mean, values, seed=7)
    assert found != metric(statistics.mean, values, seed=8)


@pytest.mark.parametrize("right", [0, 1])
def test_of_rows_that_are_all_alike_the_interval_is_the_exact_one(right: int) -> None:
    found = metric(statistics.accuracy, np.ones(80), np.full(80, right))
    exact = scipy.stats.binomtest(80 * right, 80).proportion_ci(0.95, method="exact")
    assert (found.value, found.low, found.high) == pytest.approx((right, exact.low, exact.high), abs=1e-12)


@pytest.mark.parametrize("statistic", [statistics.f1, statistics.matthews, statistics.pearson, statistics.spearman])
@pytest.mark.parametrize(
    "columns", [([0, 0, 0], [0, 1, 0]), ([0.1, 0.1, 0.1], [0, 1, 2]), ([1, 0], [1, 0]), ([1], [1])]
)
def test_degenerate_rows_give_finite_metrics(statistic: evaluation.Statistic, columns: tuple[list[float], ...]) -> None:
    found = metric(statistic, *columns)
    assert np.isfinite([found.value, found.low, found.high]).all()
    assert found.low <= found.value <= found.high
    assert found.sample_size == len(columns[0])


def test_metric_of_nothing_or_of_nan_is_an_error() -> None:
    with pytest.raises(DataError, match="no rows"):
        metric(statistics.mean, [])
    with pytest.raises(NumericalError, match="mean of 2 rows is nan"):
        metric(statistics.mean, [0.0, float("nan")])


@pytest.mark.parametrize(
    ("statistic", "rows", "seconds"), [(statistics.accuracy, 1725, 0.3), (statistics.spearman, 1500, 3)]
)
def test_bootstrap_is_fast(statistic: evaluation.Statistic, rows: int, seconds: float) -> None:
    first, second = np.random.default_rng(0).integers(0, 2, (2, rows))
    durations = []
    for _ in range(3):
        start = time.process_time()
        metric(statistic, first, second)
        durations.append(time.process_time() - start)  # others may use the machine too
    assert min(durations) < seconds
