from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from trimformer import Project, TrimformerWarning, plugins
from trimformer.errors import DataError, InvalidOption, LabelError, NumericalError, UnreachableTarget
from trimformer.judging import statistics
from trimformer.judging.guard import guarded, smallest_within
from trimformer.judging.metrics import Metric

WORDS = ["the", "film", "is", "good", "bad", "a", "long", "story", "of", "love", "and", "war"]
ROWS = Dataset.from_list(
    [{"text": " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 4 + i % 9))} for i in range(120)]
)


@pytest.fixture
def project(tiny_bert, tokenizer) -> Project:
    rows = ROWS.select(range(100)), ROWS.select(range(100, 120))
    return Project(tiny_bert("SequenceClassification"), tokenizer, plugins.load("tasks", "text"), *rows).with_guard()


def test_guard_rows_are_apart_from_calibration(project: Project) -> None:
    guard, rest = set(project.guard_rows["text"]), project.calibration_rows["text"]
    assert len(project.guard_rows) == 25
    assert len(rest) == 75
    encoded = {tuple(row["input_ids"]) for row in project.task.encode(project.guard_rows, project.tokenizer)}
    assert not encoded & {tuple(row["input_ids"]) for row in project.drawn(100, seed=0)}
    assert guard


def test_a_larger_allowed_loss_gives_a_smaller_model_within_it(project: Project) -> None:
    pruner = project.pruner(calibration_tokens=200)
    sizes = []
    for max_drop in (1e-4, 1e-1):
        guard = (result := smallest_within(project, pruner, max_drop, metric="kl")).manifest["guard"]
        assert guard["drop"] <= max_drop
        sizes.append(result.manifest["budget"]["reached"])
    assert sizes[1] < sizes[0]


def test_neurons_are_kept_in_the_multiples_asked_for(project: Project) -> None:
    result = smallest_within(project, project.pruner(calibration_tokens=200), 1e-2, metric="kl", round_to=4)
    assert result.manifest["budget"]["round_to"] == 4
    assert all(block["neuron"] % 4 == 0 for block in result.manifest["units"])


def test_an_unreachable_loss_says_what_was_found(project: Project) -> None:
    with pytest.raises(UnreachableTarget, match=r"0 in kl was found: keeping 98\.4% of flops loses .* 25 guard rows"):
        smallest_within(project, project.pruner(calibration_tokens=200, method="random"), 0.0, metric="kl")


def test_too_few_rows_to_set_aside(project: Project) -> None:
    with pytest.raises(DataError, match="too few to set some aside"):
        replace(project, calibration_rows=ROWS.select(range(3))).with_guard()


def test_few_tokens_are_warned_of_with_how_many_would_do(project: Project) -> None:
    model = project.model
    features = model.config.intermediate_size
    assert project.pruner(calibration_tokens=2 * features).warnings == []
    (warning,) = project.pruner(calibration_tokens=features // 2).warnings
    assert f"`calibration_tokens={2 * features}`" in warning


@pytest.fixture
def sst2(tiny_bert, tokenizer) -> Project:
    """A project whose rows have labels, as classifiers have them: those that the dense model would not all give."""
    labelled = ROWS.rename_column("text", "sentence").add_column("label", [0, 1] * 60)
    model = tiny_bert("SequenceClassification", num_labels=2)
    task = plugins.load("tasks", "classification")
    return Project(model, tokenizer, task, labelled.select(range(100)), labelled.select(range(100, 120)))


def test_the_first_metric_of_the_task_is_held_unless_another_is_named(sst2: Project) -> None:
    project = sst2.with_guard()
    for named, held in ((None, "accuracy"), ("f1", "f1"), ("agreement", "agreement"), ("kl", "kl")):
        guard = guarded(project, named)
        assert (guard.metric, guard.about) == (held, "25 guard rows")
        assert guard.drop_of(project.model).value == pytest.approx(0, abs=1e-6)


def test_the_loss_is_that_of_the_metric_with_its_interval_over_the_same_rows() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.integers(0, 2, 300), rng.integers(0, 2, 300)
    metrics = [{"accuracy": statistics.metric(statistics.mean, column)} for column in (old, new)]
    drop = statistics.paired_drop(*metrics, "accuracy")
    alone = statistics.metric(statistics.mean, old - new)
    assert drop.value == pytest.approx(alone.value)
    assert (drop.low, drop.high) == pytest.approx((alone.low, alone.high))
    assert statistics.paired_drop(metrics[0], metrics[0], "accuracy").high == 0
    old, new = ({**each, "kl": each["accuracy"], "perplexity": each["accuracy"]} for each in metrics)
    assert statistics.paired_drops(old, new).keys() == {"accuracy", "perplexity"}
    assert statistics.paired_drops(old, new, incomparable=["perplexity"]) == {"accuracy": drop}


def test_another_cost_can_be_made_small(project: Project) -> None:
    pruner = project.pruner(calibration_tokens=200, method="magnitude")
    result = smallest_within(project, pruner, 1e-1, metric="kl", cost="params")
    assert result.facts.budget.cost == "params"
    assert result.facts.budget.reached < 1


def test_rows_without_labels_are_never_judged_by_something_else_unasked(sst2: Project) -> None:
    project = replace(sst2, calibration_rows=sst2.calibration_rows.remove_columns("label")).with_guard()
    pruner = project.pruner(calibration_tokens=200)
    with pytest.raises(LabelError, match=r'accuracy cannot be measured .*label.*`metric="agreement"` or `metric="kl"`'):
        smallest_within(project, pruner, 1e-3)
    result = smallest_within(project, pruner, 1e-3, metric="kl")
    assert 0 < result.manifest["guard"]["drop"] <= 1e-3
    assert result.manifest["guard"]["metric"] == "kl"
    assert result.manifest["budget"]["reached"] < 1


@pytest.mark.parametrize("metric", ["f2", "squared_distance"])
def test_a_metric_that_there_is_not_names_those_that_there_are(sst2: Project, metric: str) -> None:
    with pytest.raises(InvalidOption, match=f"unknown metric '{metric}'.* Known: accuracy, agreement, .*f1, kl"):
        guarded(sst2.with_guard(), metric)


def test_one_row_is_no_share_of_a_distance(sst2: Project) -> None:
    project = sst2.with_guard()
    pruner = project.pruner(calibration_tokens=200, method="magnitude")
    with pytest.warns(TrimformerWarning, match="only 25 rows: give more"):
        smallest_within(project, pruner, 10.0, metric="kl")


def test_few_guard_rows_and_a_wide_interval_are_warned_of(sst2: Project) -> None:
    project = sst2.with_guard()
    pruner = project.pruner(calibration_tokens=200, method="magnitude")
    with pytest.warns(TrimformerWarning, match=r"only 25 rows, where one alone is 0\.04 of agreement") as warned:
        result = smallest_within(project, pruner, 0.04, metric="agreement")
    assert result.facts.warnings[-len(warned) :] == tuple(str(warning.message) for warning in warned)
    drops = Metric(0.02, 25, -0.04, 0.12), Metric(0.02, 25, -0.04, 0.16)
    wide, wider = (guarded(project, "agreement").told(result, 0.04, drop).facts.warnings[-1] for drop in drops)
    assert "it may be up to" not in wide
    assert "0.0200 of agreement is lost on 25 guard rows, but it may be up to 0.1600 (95 %)" in wider


def test_activations_that_are_no_numbers_name_the_site(project: Project) -> None:
    project.model.base_model.encoder.layer[1].attention.output.LayerNorm.eps = -1e9
    with pytest.raises(NumericalError, match=r"encoder\.layer\.1\.ffn"):
        project.pruner(calibration_tokens=200)
