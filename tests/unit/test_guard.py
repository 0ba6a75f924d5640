from __future__ import annotations

from dataclasses import replace

import pytest
from datasets import Dataset

from trimformer import Project, plugins
from trimformer.errors import DataError, NumericalError, UnreachableTarget
from trimformer.judging.guard import smallest_within

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
        guard = (result := smallest_within(project, pruner, max_drop)).manifest["guard"]
        assert guard["drop"] <= max_drop
        sizes.append(result.manifest["budget"]["reached"])
    assert sizes[1] < sizes[0]


def test_neurons_are_kept_in_the_multiples_asked_for(project: Project) -> None:
    result = smallest_within(project, project.pruner(calibration_tokens=200), 1e-2, round_to=4)
    assert result.manifest["budget"]["round_to"] == 4
    assert all(block["neuron"] % 4 == 0 for block in result.manifest["units"])


def test_an_unreachable_loss_says_what_was_found(project: Project) -> None:
    with pytest.raises(UnreachableTarget, match=r"keeping 98\.4% of flops loses"):
        smallest_within(project, project.pruner(calibration_tokens=200, method="random"), 0.0)


def test_too_few_rows_to_set_aside(project: Project) -> None:
    with pytest.raises(DataError, match="too few to set some aside"):
        replace(project, calibration_rows=ROWS.select(range(3))).with_guard()


def test_few_tokens_are_warned_of_with_how_many_would_do(project: Project) -> None:
    model = project.model
    features = model.config.intermediate_size
    assert project.pruner(calibration_tokens=2 * features).warnings == []
    (warning,) = project.pruner(calibration_tokens=features // 2).warnings
    assert f"`calibration_tokens={2 * features}`" in warning


def test_guard_rows_without_labels_are_compared_with_the_dense_model(tiny_bert, tokenizer) -> None:
    unlabelled = Dataset.from_dict({"sentence": ROWS["text"][:100]})
    labelled = Dataset.from_dict({"sentence": ROWS["text"][100:], "label": [0, 1] * 10})
    model = tiny_bert("SequenceClassification", num_labels=2)
    project = Project(model, tokenizer, plugins.load("tasks", "sst2"), unlabelled, labelled).with_guard()
    result = smallest_within(project, project.pruner(calibration_tokens=200), 1e-3)
    assert 0 < result.manifest["guard"]["drop"] <= 1e-3
    assert result.manifest["budget"]["reached"] < 1


def test_activations_that_are_no_numbers_name_the_site(project: Project) -> None:
    project.model.base_model.encoder.layer[1].attention.output.LayerNorm.eps = -1e9
    with pytest.raises(NumericalError, match=r"encoder\.layer\.1\.ffn"):
        project.pruner(calibration_tokens=200)
