"""`trimformer export` and `trimformer latency` on tiny checkpoints."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from commands import Run
from conftest import WORDS, TinyBert
from tiny_models import random_masks
from trimformer.model import checkpoint
from trimformer.model.structure import read_structure
from trimformer.model.surgery import cut

ort = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed: pip install 'trimformer[onnx]'")


@pytest.fixture
def dense(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    return checkpoint.write(tiny_bert(num_labels=2), tmp_path / "dense", tokenizer=tokenizer)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    words = WORDS.split()
    rows = [{"sentence": " ".join(words[start : start + 7]), "label": start % 2} for start in range(12)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows * 5))
    return file


@pytest.fixture
def pruned(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, data: Path) -> Path:
    """As `prune` leaves it: the manifest says task and rows."""
    structure = read_structure(tiny_bert(num_labels=2))
    cut(structure, random_masks(structure))
    facts = {"task": "sst2", "data": str(data)}
    return checkpoint.write(structure.model, tmp_path / "pruned", tokenizer=tokenizer, manifest=facts)


def test_export_of_a_pruned_model(run: Run, pruned: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    code, out, err = run("export", pruned, "--onnx", "--int8")
    assert code == 0, err
    folder = pruned.with_name("pruned-onnx")
    for part in ("model.onnx", "model.int8.onnx", "accuracy", "opset 20", "logits"):
        assert part in out
    facts = json.loads((folder / "export.json").read_text())
    assert facts["task"] == "sst2"
    assert {each["metrics"]["accuracy"]["sample_size"] for each in facts["files"].values()} == {12}
    assert run("export", pruned, "--onnx")[0] == 2
    assert "is an ONNX export without PyTorch's weights" in run("export", folder, "--onnx").err
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    given = tokenizer(["the cat", "a dog was in the river"], padding=True, return_tensors="np")
    logits = session.run(None, {name: given[name].astype(np.int64) for name in facts["inputs"]})[0]
    model = checkpoint.load_model(str(pruned))
    with torch.no_grad():
        expected = model(**{name: torch.tensor(values) for name, values in given.items()}).logits
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    code, out, err = run("latency", folder, "--runtimes", "onnx,int8", "--shapes", "2x5", "--runs", 2, "--json")
    assert code == 0, err
    assert [each["runtime"] for each in json.loads(out)["measured"]] == ["onnx", "int8"]
    both = ("latency", pruned, folder, "--runtimes", "eager,onnx", "--shapes", "2x5", "--runs", 2, "--json")
    found = [(Path(each["model"]), each["runtime"]) for each in json.loads(run(*both).out)["measured"]]
    assert found == [(pruned, "eager"), (pruned, "onnx"), (folder, "onnx")]


def test_a_model_that_was_only_finetuned_is_its_own_original(
    run: Run, tiny_bert: TinyBert, dense: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, data: Path
) -> None:
    """What it was taught from has no head for the task."""
    source = checkpoint.write(tiny_bert().bert, tmp_path / "pretrained", tokenizer=tokenizer)
    facts = {"model_class": "BertForSequenceClassification", "task": "sst2", "data": str(data), "source": str(source)}
    (dense / "trimformer.json").write_text(json.dumps(facts))
    code, out, err = run("export", dense, "--onnx", "--json")
    assert code == 0, err
    assert "original" not in json.loads(out)


def test_weights_that_are_no_numbers_are_named(
    run: Run, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder = tmp_path / "nan"
    tiny_bert(num_labels=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {"classifier.bias": torch.full((2,), torch.nan)}, folder / "model.safetensors", {"format": "pt"}
    )
    code, _, err = run("export", folder, "--onnx")
    assert code == 2
    assert "NaN or infinite weights at classifier.bias" in err


def test_large_outputs_are_compared_by_their_size(
    run: Run, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = tiny_bert(num_labels=2)
    with torch.no_grad():
        model.classifier.weight.mul_(1e6)
    code, out, err = run("export", checkpoint.write(model, tmp_path / "large", tokenizer=tokenizer), "--onnx", "--json")
    assert code == 0, err
    about = json.loads(out)["files"]["model.onnx"]
    assert 1e-4 < about["max_difference"] < 1e-4 * about["max_output"]


@pytest.mark.slow
def test_int8_tells_the_loss_against_the_original(
    run: Run, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, data: Path
) -> None:
    dense = checkpoint.write(tiny_bert(num_labels=2), tmp_path / "original", tokenizer=tokenizer)
    smaller, rest = tmp_path / "smaller", ("--calibration-tokens", 60, "--method", "magnitude")
    assert run("prune", dense, "--task", "sst2", "--data", data, "--flops", 0.5, "--out", smaller, *rest)[0] == 0
    code, out, err = run("export", smaller, "--onnx", "--int8")
    assert code == 0, err
    assert f"model.int8.onnx against {dense}" in out.splitlines()[0]
    assert " → " in out.splitlines()[0]
    assert "(n=12)" in out.splitlines()[0]
    known = json.loads((smaller.with_name("smaller-onnx") / "export.json").read_text())["original"]
    assert known["metrics"] == json.loads((smaller / "trimformer.json").read_text())["metrics"]["dense"]
    (dense / "config.json").rename(tmp_path / "config.json")
    dense.rename(tmp_path / "elsewhere")
    stored = json.loads(run("export", smaller, "--onnx", "--overwrite", "--json").out)["original"]
    assert stored["metrics"] == known["metrics"]


@pytest.mark.slow
def test_export_of_a_sentence_transformers_model(
    run: Run, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder = checkpoint.write(tiny_bert(None), tmp_path / "encoder", tokenizer=tokenizer)
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    code, out, err = run("export", folder, "--onnx", "--out", tmp_path / "out", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["outputs"] == ["last_hidden_state", "embedding"]
    assert facts["files"]["model.onnx"]["max_difference"] < 1e-4
    assert (tmp_path / "out" / "modules.json").is_file()
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()


@pytest.mark.slow
def test_latency_of_two_models_in_two_runtimes(run: Run, dense: Path, pruned: Path) -> None:
    arguments = (
        "latency",
        dense,
        pruned,
        "--runtimes",
        "eager,onnx",
        "--shapes",
        "1x4,3x8",
        "--runs",
        3,
        "--threads",
        1,
    )
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["device"], facts["threads"], facts["runs"]) == ("cpu", 1, 3)
    assert facts["device_name"]
    found = [(each["rows"], each["length"], each["runtime"], Path(each["model"]).name) for each in facts["measured"]]
    assert found == list(
        itertools.chain.from_iterable(
            [(*shape, runtime, "dense"), (*shape, runtime, "pruned")]
            for shape in ((1, 4), (3, 8))
            for runtime in ("eager", "onnx")
        )
    )
    for first, second in zip(facts["measured"][::2], facts["measured"][1::2], strict=True):
        assert first["ratio"] == 1
        assert second["ratio"] == second["median_ms"] / first["median_ms"]
        assert second["sequences_per_second"] == pytest.approx(1000 * second["rows"] / second["median_ms"])


def test_latency_table(run: Run, dense: Path) -> None:
    code, out, err = run("latency", dense, "--shapes", "2x6", "--runs", 2)
    assert code == 0, err
    for part in ("2 × 6", "eager", "sequences/s", "1.000", "2 runs in turn"):
        assert part in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["latency", "DENSE", "--device", "cuda:7"], "no device 'cuda:7' on this machine"),
        (["latency", "DENSE", "--runtimes", "jit"], "unknown runtime 'jit'"),
        (["latency", "DENSE", "--shapes", "32"], "--shapes 32 must be rows x tokens"),
        (["latency", "DENSE", "--shapes", "1x65"], "--shapes has 65 tokens"),
        (["latency", "DENSE", "DENSE"], "given twice"),
        (["export", "DENSE"], "say what to write: --onnx"),
        (["export", "DENSE", "--onnx", "--int8"], "--task and --data"),
        (["export", "DENSE", "--onnx", "--data", "/no/such"], "--data needs --task"),
        (["export", "DENSE", "--onnx", "--out", "DENSE"], "never replaced"),
        (["export", "DENSE", "--onnx", "--task", "sst2", "--data", "/no/such"], "/no/such"),
    ],
)
def test_mistakes_are_said_in_one_line(run: Run, dense: Path, arguments: list[str], said: str) -> None:
    code, out, err = run(*(str(dense) if each == "DENSE" else each for each in arguments))
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not dense.with_name("dense-onnx").exists()


@pytest.mark.parametrize("command", [["export", "--onnx"], ["latency", "--runtimes", "onnx"]])
def test_a_missing_extra_is_said_with_its_command(
    run: Run, dense: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, err = run(command[0], dense, *command[1:])
    assert code == 2
    assert "pip install 'trimformer[onnx]'" in err
