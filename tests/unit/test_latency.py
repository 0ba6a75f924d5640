"""Times are of the pass itself, of all models in turn; and what runs a model gives what the model gives."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tiny_models import inputs, outputs, random_masks, tiny_model
from trimformer.data.batches import Workload
from trimformer.errors import InvalidOption, UnsupportedModel
from trimformer.export.runtimes import compile_for, runners, runtimes_for, runtimes_of
from trimformer.model import checkpoint
from trimformer.model.structure import read_structure
from trimformer.model.surgery import cut
from trimformer.observing.latency import Latency, measure, measure_at, measure_within, using_threads

BATCH = {"input_ids": torch.ones(4, 8, dtype=torch.long)}


class Sleeper(nn.Module):
    """Takes a known time and writes down that it was called."""

    def __init__(self, name: str, milliseconds: float, calls: list[str]) -> None:
        super().__init__()
        self.name, self.milliseconds, self.calls = name, milliseconds, calls

    def forward(self, **_: torch.Tensor) -> None:
        assert not torch.is_grad_enabled()
        assert not self.training
        self.calls.append(self.name)
        time.sleep(self.milliseconds / 1000)


def test_models_take_turns_and_warming_up_does_not_count() -> None:
    calls: list[str] = []
    models = {"fast": Sleeper("fast", 1, calls), "slow": Sleeper("slow", 20, calls)}
    times = measure(models, BATCH, runs=3, warmup=2)
    assert calls == ["fast", "slow"] * 5
    assert 1 <= times["fast"].low_ms <= times["fast"].median_ms <= times["fast"].high_ms
    assert times["slow"].median_ms >= 20
    assert all(model.training for model in models.values())
    assert (times["slow"].runs, times["slow"].rows, times["slow"].length) == (3, 4, 8)


def test_a_model_that_chooses_is_timed_on_rows_of_any_length() -> None:
    """Rows of one choice each, of which it computes as many tokens as other models."""
    models = {"dense": tiny_model("bert", "multiple choice")}
    (found,) = measure_within(60.0, Workload(11.0, 3), models, runs=2).values()
    assert (found.rows, found.length) == (3, 11)
    (found,) = measure_at(Workload(11.0, 3), models, runs=1).values()
    assert (found.rows, found.length) == (3, 11)


@pytest.mark.parametrize(
    ("seconds", "runs", "rows"),
    [
        (60.0, 15, 4),  # 15 passes and 2 to warm up, of two models at 20 ms, take 0.7 s
        (0.4, 8, 4),  # time for 10 rounds
        (0.09, 3, 2),  # for a little over 2 rounds of 4 rows, so for the 4 that there must be of 2 rows
        (0.001, 3, 1),
    ],
)
def test_within_a_time_there_are_fewer_passes_and_then_fewer_rows(seconds: float, runs: int, rows: int) -> None:
    by_row = {name: tiny_model("bert") for name in ("before", "after")}
    for model in by_row.values():
        model.forward = lambda input_ids, **_: time.sleep(0.005 * len(input_ids))
    start = time.perf_counter()
    times = measure_within(seconds, Workload(8.0, batch_size=4), by_row)
    assert time.perf_counter() - start < max(1.5 * seconds, 0.2) + 0.6
    assert {(found.runs, found.rows) for found in times.values()} <= {(runs + d, rows) for d in (-2, -1, 0)}


def test_sequences_per_second() -> None:
    assert Latency(20.0, 19.0, 21.0, runs=5, rows=4, length=8, device="cpu", threads=1).sequences_per_second == 200


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        with using_threads(None):
            assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_a_pruned_model_with_empty_sublayers_compiles_whole(architecture: str) -> None:
    structure = read_structure(tiny_model(architecture))
    masks = random_masks(structure)
    names = list(masks)
    cut(structure, masks | {name: torch.zeros_like(masks[name]) for name in (names[0], names[-1])})
    model, batch = structure.model, inputs(structure.model)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(outputs(compiled, batch), outputs(model, batch), atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler imports what PyTorch has deprecated
def test_the_compiled_runtime_gives_what_the_model_gives(tmp_path: Path) -> None:
    model = tiny_model("bert")
    folder = checkpoint.write(model, tmp_path / "bert")
    found = runners(str(folder), ["compile", "eager"], "cpu", tmp_path)
    batch = inputs(model)
    compile_for(found["compile"], batch, "bert")
    for each in found.values():
        torch.testing.assert_close(outputs(each, batch), outputs(model, batch), atol=1e-5, rtol=0)


def test_a_model_that_cannot_be_compiled_is_named() -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler")

    model = torch.compile(nn.Identity(), backend=broken)
    model.forward = lambda **_: broken()
    with pytest.raises(UnsupportedModel, match=r"torch\.compile failed on small: no compiler"):
        compile_for(model, BATCH, "small")


class TestRuntimes:
    def test_names(self) -> None:
        assert runtimes_of("compile,eager,compile") == ["compile", "eager"]
        with pytest.raises(InvalidOption, match=r"unknown runtime 'egaer'\. Did you mean 'eager'"):
            runtimes_of("onnx,egaer")

    def test_a_checkpoint_in_onnx_runtime(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
        model = tiny_model("distilbert")
        folder = checkpoint.write(model, tmp_path / "model")
        (tmp_path / "scratch").mkdir()
        found = runners(str(folder), ["int8", "eager", "onnx"], "cpu", tmp_path / "scratch")
        assert list(found) == ["int8", "eager", "onnx"]
        batch, expected = inputs(model), outputs(model, inputs(model))
        torch.testing.assert_close(outputs(found["onnx"], batch), expected, atol=1e-5, rtol=0)
        difference = (outputs(found["int8"], batch) - expected).abs().max()
        assert 1e-5 < difference < 0.5

    def test_an_exported_folder_is_for_onnx_only(self, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_text("")
        with pytest.raises(
            InvalidOption, match="export, not for eager: give `runtimes=onnx`; with `runtimes=eager,onnx`"
        ):
            runners(str(tmp_path), ["eager"], "cpu", tmp_path)
        with pytest.raises(InvalidOption, match="not for int8"):
            runners(str(tmp_path), ["int8"], "cpu", tmp_path)
        assert runtimes_for(str(tmp_path), ["eager", "int8", "onnx"]) == ["onnx"]
        assert runtimes_for(str(tmp_path / "model"), ["eager", "onnx"]) == ["eager", "onnx"]
