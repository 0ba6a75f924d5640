"""Real fine-tuned checkpoints, where they are at hand: a sanity check, not the benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimformer import Budget, Project, plugins
from trimformer.model import checkpoint

SHARED = Path(__file__).parents[3] / "shared"
DROP = 0.03


@pytest.mark.slow
def test_sst2_at_40_percent_of_the_flops_stays_near_the_dense_model(tmp_path: Path) -> None:
    source, data = SHARED / "models" / "minilm-sst2", SHARED / "data" / "glue" / "sst2"
    if not (source.exists() and data.exists()):
        pytest.skip(f"needs {source} and {data}")
    task = plugins.load("tasks", "sst2")
    model, tokenizer = checkpoint.load_model(str(source), task.auto_class), checkpoint.load_tokenizer(str(source))
    project = Project(model, tokenizer, task, task.rows(str(data), "train"), task.rows(str(data), "validation"))
    pruner = project.pruner(method="kprune", calibration_tokens=20_000)
    result = project.judge(pruner.prune(Budget(flops=0.4)))
    assert result.pruning.manifest["budget"]["reached"] <= 0.4
    assert result.after["accuracy"].value >= result.before["accuracy"].value - DROP
    saved = checkpoint.write(result.pruning.model, tmp_path / "small", tokenizer=tokenizer)
    again = task.evaluate(checkpoint.load_model(str(saved)), tokenizer, task.rows(str(data), "validation"))
    assert again["accuracy"].value == result.after["accuracy"].value


@pytest.mark.slow
def test_the_loss_of_a_refitted_model_is_in_the_band_of_its_plan() -> None:
    source, data = SHARED / "models" / "minilm-sst2", SHARED / "data" / "glue" / "sst2"
    if not (source.exists() and data.exists()):
        pytest.skip(f"needs {source} and {data}")
    sst2, text = plugins.load("tasks", "sst2"), plugins.load("tasks", "text")
    model, tokenizer = checkpoint.load_model(str(source), sst2.auto_class), checkpoint.load_tokenizer(str(source))
    splits = [sst2.rows(str(data), split).select_columns("sentence") for split in ("train", "validation")]
    project = Project(model, tokenizer, text, *(rows.rename_column("sentence", "text") for rows in splits))
    pruner = project.pruner(calibration_tokens=6000)
    for planned in pruner.plan([Budget(flops=0.7), Budget(flops=0.4)]):
        lost = project.evaluate(pruner.prune(Budget(flops=planned.budget.asked)).model, project.evaluation_rows)["kl"]
        assert planned.loss.low <= lost.value <= planned.loss.high
