from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trimformer import Budget, Pruner
from trimformer.pruning.cache import MeasuredCache

ROWS = [{"input_ids": [2, *range(5, 5 + n), 3], "attention_mask": [1] * (n + 2)} for n in range(3, 15)]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> MeasuredCache:
    return MeasuredCache(tmp_path / "cache", say=said.append)


def prune(model, cache: MeasuredCache, rows=ROWS, **options):
    pruner = Pruner(model, rows, calibration_tokens=None, cache=cache, options=options)
    return pruner.prune(Budget(flops=0.5)), pruner


def test_a_second_run_reuses_the_measurement_and_prunes_the_same(tiny_bert, cache, said) -> None:
    model = tiny_bert()
    first, _ = prune(model, cache)
    assert said == []
    second, _ = prune(model, cache)
    assert "reusing" in said[0]
    assert first.facts.seconds["measuring"] > second.facts.seconds["measuring"] == 0
    assert all(torch.equal(first.masks[name], second.masks[name]) for name in first.masks)
    weights = second.model.state_dict()
    assert all(torch.equal(values, weights[name]) for name, values in first.model.state_dict().items())


@pytest.mark.parametrize("what", ["model", "data", "options"])
def test_other_models_rows_and_options_are_measured_anew(tiny_bert, cache, said, what: str) -> None:
    model, whole = tiny_bert(), {"narrow": False}  # other rows turn heads into another model
    prune(model, cache, **whole)
    if what == "model":
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)
    changed = {"damping": 0.2} if what == "options" else {}
    prune(model, cache, ROWS[:-1] if what == "data" else ROWS, **whole, **changed)
    assert [f"other {what}" in message for message in said] == ([] if what == "model" else [True])
    assert len(list(cache.folder.iterdir())) == 2


def test_a_damaged_file_is_said_and_replaced(tiny_bert, cache, said) -> None:
    model = tiny_bert()
    prune(model, cache)
    (file,) = cache.folder.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    prune(model, cache)
    assert "damaged" in said[0]
    prune(model, cache)
    assert "reusing" in said[1]


def test_a_file_written_for_something_else_is_said_and_replaced(tiny_bert, cache, said) -> None:
    model = tiny_bert()
    prune(model, cache)
    (file,) = cache.folder.iterdir()
    prune(model, cache, damping=0.2)
    (other,) = (path for path in cache.folder.iterdir() if path != file)
    other.replace(file)
    said.clear()
    prune(model, cache)
    assert "something else" in said[0]


def test_options_that_measuring_does_not_read_are_no_reason_to_measure_anew(tiny_bert, cache, said) -> None:
    model = tiny_bert()
    prune(model, cache)
    prune(model, cache, ridge=0.1)
    assert "reusing" in said[0]


def test_a_cache_that_cannot_be_written_is_said_and_no_error(tiny_bert, tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").touch()
    prune(tiny_bert(), MeasuredCache(tmp_path / "file" / "cache", say=said.append))
    assert "nothing is kept" in said[0]
