"""A model whose weights are on disk is pruned to what it is pruned to in memory, and its checkpoint stays as it is."""

from __future__ import annotations

import gc
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from tiny_models import CONFIGS, SETTINGS, SHARES, inputs, is_causal, outputs, tiny_model
from trimformer import plugins
from trimformer.data.rows import Features
from trimformer.errors import InvalidOption
from trimformer.model.checkpoint import load_model, write
from trimformer.model.offload import SCRATCH, is_offloaded
from trimformer.model.structure import read_structure
from trimformer.pruning.budget import Budget
from trimformer.pruning.once import prune
from trimformer.pruning.result import PruningResult

BY_BLOCK = [name for name in plugins.names("methods") if plugins.load("methods", name).backward != "whole model"]
FAMILIES = ["bert", "gpt2", "llama"]


def head_of(family: str) -> str:
    return "language model" if is_causal(family) else "sequence classification"


@pytest.fixture(scope="module")
def rows() -> list[Features]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 21, (30,), generator=generator).tolist()
    return [{"input_ids": torch.randint(8, 120, (length,), generator=generator).tolist()} for length in lengths]


def on_disk(folder: Path) -> PreTrainedModel:
    """A checkpoint with its blocks on disk, and where nothing is tied to them its embeddings; the rest on the CPU."""
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    whole = kind.from_pretrained(folder)
    blocks = f"{whole.base_model_prefix}.{read_structure(whole).architecture.chains[0].blocks}."
    depth = blocks.count(".") + 1
    placed: dict[str, str] = {}
    for name in whole.state_dict():
        if name.startswith(blocks):
            placed[".".join(name.split(".")[:depth])] = "disk"
        else:
            placed[name.rpartition(".")[0]] = "disk" if "embed_tokens" in name else "cpu"
    model: PreTrainedModel = kind.from_pretrained(folder, device_map=placed).eval()
    assert is_offloaded(model)
    return model


def pruned(model: PreTrainedModel, rows: list[Features], method: str, **options: Any) -> PruningResult:
    share = Budget(flops=SHARES.get(method, 0.5))
    settings = SETTINGS.get(method, {}) | options
    return prune(model, rows, budget=share, method=method, options=settings, calibration_tokens=None)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [*BY_BLOCK, "surgeon without gradients"])
def test_offloaded_models_are_pruned_alike(family: str, method: str, rows: list[Features], tmp_path: Path) -> None:
    name, *without = method.split(" without ")
    options = {"gradients": False} if without else {"narrow": False} if name == "surgeon" else {}
    tune = {"tune": True} if name in ("magnitude", "dual_cp") else {}
    model = tiny_model(family, head_of(family))
    model.save_pretrained(tmp_path / "dense")
    before = digests(tmp_path / "dense")
    offloaded = on_disk(tmp_path / "dense")
    expected = pruned(model, rows, name, **options, **tune)
    result = pruned(offloaded, rows, name, **options, **tune)
    batch = inputs(model)
    assert {name: mask.tolist() for name, mask in result.masks.items()} == {
        name: mask.tolist() for name, mask in expected.masks.items()
    }
    torch.testing.assert_close(outputs(result.model, batch), outputs(expected.model, batch), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs(offloaded, batch), outputs(model, batch))
    assert is_offloaded(result.model)
    assert is_offloaded(offloaded)
    write(result.model, tmp_path / "pruned")
    loaded = load_model(str(tmp_path / "pruned"))
    assert not is_offloaded(loaded)
    assert torch.equal(outputs(loaded, batch), outputs(result.model, batch))
    assert digests(tmp_path / "dense") == before


@pytest.mark.skipif("qwen3_5_text" not in CONFIGS, reason="transformers 5.0 and 5.1 do not have it")
def test_an_offloaded_model_whose_files_have_other_names_is_saved(rows: list[Features], tmp_path: Path) -> None:
    tiny_model("qwen3_5_text").save_pretrained(tmp_path / "dense")
    result = pruned(on_disk(tmp_path / "dense"), rows, "magnitude")
    write(result.model, tmp_path / "pruned")
    batch = inputs(result.model)
    assert torch.equal(outputs(load_model(str(tmp_path / "pruned")), batch), outputs(result.model, batch))


def test_an_offloaded_pruned_model_is_pruned_again(rows: list[Features], tmp_path: Path) -> None:
    tiny_model("llama", "language model").save_pretrained(tmp_path / "dense")
    once = pruned(on_disk(tmp_path / "dense"), rows, "surgeon")
    before = outputs(once.model, inputs(once.model))
    twice = pruned(once.model, rows, "surgeon")
    assert twice.manifest["already_pruned"]
    assert torch.equal(outputs(once.model, inputs(once.model)), before)
    assert twice.manifest["parameters"]["pruned"] < once.manifest["parameters"]["pruned"]


def test_changed_weights_vanish_with_the_model(rows: list[Features], tmp_path: Path) -> None:
    tiny_model("llama", "language model").save_pretrained(tmp_path / "dense")
    result = pruned(on_disk(tmp_path / "dense"), rows, "magnitude", tune=True)
    folder = getattr(result.model, SCRATCH).folder
    structure = read_structure(result.model)
    projections = {producer.path for site in structure for producer in site.producers} | {
        site.consumer for site in structure
    }
    assert 0 < len(list(folder.iterdir())) <= len(projections), "one file for each changed projection, none left over"
    del result, structure
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize("method", ["kprune", "mask_tuning"])
def test_gradients_of_a_whole_offloaded_model_are_refused(method: str, rows: list[Features], tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path)
    labelled = [{**row, "labels": 0} for row in rows]
    with pytest.raises(InvalidOption, match='`method="surgeon"`, which takes them block by block, or with `grad'):
        pruned(on_disk(tmp_path), labelled, method)
