"""The model card: what the hub reads, and the same facts as the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from example_facts import HOSTILE, facts, plain_facts
from trimformer.judging.manifest import Manifest
from trimformer.judging.training_facts import FineTuningFacts, RecipeFacts, TrainingFacts
from trimformer.report.model_card import model_card


def test_the_header_is_what_the_hub_reads() -> None:
    header = ModelCard(model_card(facts())).data
    assert header.base_model == "some/model"
    assert header.library_name == "transformers"
    assert header.pipeline_tag == "text-classification"
    assert {"trimformer", "surgeon"} <= set(header.tags or [])
    assert header.metrics == ["accuracy"]


@pytest.mark.parametrize("source", ["/home/me/model", "./model", "a/b/c", ""])
def test_a_folder_is_no_base_model(source: str) -> None:
    assert ModelCard(model_card(facts(source=source))).data.base_model is None


def test_a_local_folder_that_looks_like_a_hub_name_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "model").mkdir(parents=True)
    assert ModelCard(model_card(facts())).data.base_model is None


@pytest.mark.parametrize(
    ("model_class", "pipeline"),
    [("BertModel", "feature-extraction"), ("GPT2LMHeadModel", "text-generation"), ("BertForMaskedLM", "fill-mask")],
)
def test_what_the_model_does(model_class: str, pipeline: str) -> None:
    assert ModelCard(model_card(facts(model_class=model_class))).data.pipeline_tag == pipeline


def test_every_fact_is_told() -> None:
    text = model_card(facts(warnings=["use `rows=5`, or *less*"])).replace("\N{NO-BREAK SPACE}", " ")
    for part in (
        "**1.85× faster, 91 → 68 MB, accuracy 0.874 → 0.861 ± 0.02 (n=872)**",
        "Keeps 50.0 % of the FLOPs of attention and FFN, 75.0 % of all parameters.",
        "| file of the weights (90.9 MB → 68.1 MB) |",
        "> **Warning:** use `rows=5`, or \\*less\\*",
        "| FLOPs of attention and FFN | at most 50.0 % | 50.0 % |  |",
        "| 0 | 9 / 12 | 768 / 1536 |",
        "| accuracy | 0.8739 | 0.8614 |",
        "trimformer prune some/model",
        "| seed | `7` |",
        "trust_remote_code=True",
    ):
        assert part in text, part


def test_all_trainings_are_told_in_their_order() -> None:
    """A model that a method trained may be fine-tuned afterwards."""
    about: dict[str, Any] = dict.fromkeys(("metric", "best_step", "precision", "device"))
    about |= dict.fromkeys(("threads", "patience", "seed", "guard_rows", "seconds", "judging_seconds"), 1)
    about |= {"losses": (), "curve": (), "stopped_early": False, "versions": {}, "arguments": {}, "resumed_at_step": 0}
    stage = TrainingFacts(**about, steps=650, epochs=3.0, rows=6920)
    recipe = RecipeFacts(seconds={}, cpu_seconds={}, shared_by=1, chosen={}, trainings={"width": stage})
    tuned = FineTuningFacts(**about, steps=9, epochs=1.0, rows=300, new_head=(), before=None)
    told = [
        "- Training, stage width: 6,920 rows, 3 epochs, steps: 650.\n",
        "- After it was pruned, the model was fine-tuned on 300 rows.\n",
    ]
    assert told[0] in model_card(replace(facts(), recipe=recipe))
    assert told[1] in model_card(replace(facts(), finetuning=tuned))
    assert "".join(told) in model_card(replace(facts(), recipe=recipe, finetuning=tuned))


def test_tables_stay_tables_whatever_the_facts() -> None:
    lines = model_card(facts(source=HOSTILE, task=HOSTILE, data=HOSTILE)).splitlines()
    rows = [line for line in lines if line.startswith(("| task", "| data"))]
    assert len(rows) == 2
    assert all(row.count("|") == 3 and row.count("`") == 2 for row in rows)


def test_without_metrics_or_times() -> None:
    bare = {key: value for key, value in plain_facts().items() if key not in ("metrics", "latency", "command")}
    text = model_card(Manifest.from_json(bare))
    assert "## Metrics" not in text
    assert ModelCard(text).data.metrics is None


@pytest.mark.parametrize(
    ("model_class", "loader"),
    [
        ("BertForNextSentencePrediction", "AutoModelForNextSentencePrediction"),
        ("BertForPreTraining", "AutoModelForPreTraining"),
        ("BertForMultipleChoice", "AutoModelForMultipleChoice"),
        ("BertModel", "AutoModel"),
    ],
)
def test_the_lines_that_load_it_keep_its_head(model_class: str, loader: str) -> None:
    assert f"{loader}.from_pretrained(" in model_card(facts(model_class=model_class))
