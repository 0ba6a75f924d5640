"""Damaged checkpoints end in one line that says what, where and what to do: no trace, no hang, no other model.

Two kinds: files that fuzzing found, in `../shared/cases/faults` where that is, and the like made here, of tiny models.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from time import monotonic
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from tiny_models import random_masks, tiny_model
from trimformer.data import hub
from trimformer.errors import CheckpointError
from trimformer.model import checkpoint
from trimformer.model.structure import read_structure
from trimformer.model.surgery import cut

FAULTS = Path(__file__).parents[3] / "shared" / "cases" / "faults"
SECONDS = 10
ONE_LINE = r"is damaged|that pads with"


def refuses(act: Callable[[], Any], said: str = ONE_LINE) -> None:
    """The act is refused in one line, within the time that nobody takes for a hang."""
    began = monotonic()
    with pytest.raises(CheckpointError, match=said) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert monotonic() - began < SECONDS


MENDED: dict[str, Any] = {
    "tie_word_embeddings": False,
    "vocab_size": 120,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "layer_norm_eps": 1e-12,
    "num_hidden_layers": 2,
}
"""What entries of the configs that were fuzzed had been, by name."""


def mended(config: dict[str, Any]) -> dict[str, Any]:
    """Give a damaged config as it was before, as far as a model of the same weights needs."""
    sound = {**config, **{name: value for name, value in MENDED.items() if name in config}}
    if not isinstance(sound.get("pad_token_id"), int):
        sound["pad_token_id"] = 0
    if "eos_token_id" in sound and not isinstance(sound["eos_token_id"], int):
        sound["eos_token_id"] = None
    sizes = copy.deepcopy(sound["quantization_config"])
    sizes = {name: sizes[name] for name in ("linears", "empty", "kept", "units", "quant_method") if name in sizes}
    sizes["linears"] = {path: [min(size, 32) for size in shape] for path, shape in sizes["linears"].items()}
    sizes["empty"] = {path: owned for path, owned in sizes["empty"].items() if path != "embeddings"}
    if sound["model_type"] == "llama":
        sound["num_attention_heads"] = 8
    if isinstance(sound.get("rope_parameters"), dict) and "partial_rotary_factor" in sound["rope_parameters"]:
        sound["rope_parameters"]["partial_rotary_factor"] = 0.25
    return {**sound, "quantization_config": sizes}


OWN_CODE = """
import pathlib, torch
from transformers import PreTrainedConfig, PreTrainedModel
pathlib.Path({marker!r}).write_text("ran")
class OwnConfig(PreTrainedConfig):
    model_type = "own"
class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(2, 2)
        self.post_init()
"""


def shared(kinds: tuple[str, ...]) -> list[str]:
    found = sorted(each.name for each in FAULTS.glob("*") if each.is_dir() and each.name.startswith(kinds))
    return found or [pytest.param("none", marks=pytest.mark.skip(reason="../shared/cases/faults is not here"))]


@pytest.mark.parametrize("name", shared(("cfg-", "config-", "extra-", "quant-")))
def test_a_config_that_fuzzing_found(name: str, tmp_path: Path) -> None:
    config = json.loads((FAULTS / name / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(mended(copy.deepcopy(config))))
    sound = AutoConfig.from_pretrained(tmp_path)
    kind = getattr(transformers, config["architectures"][0])
    kind._from_config(sound).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    refuses(lambda: checkpoint.load_model(str(tmp_path)))


@pytest.mark.parametrize("name", shared(("tok-",)))
def test_a_tokenizer_that_fuzzing_found(name: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    tiny_model("bert", vocab_size=len(tokenizer)).config.save_pretrained(tmp_path)
    for file in (FAULTS / name).glob("*.json"):
        copyfile(file, tmp_path / file.name)
    refuses(lambda: checkpoint.load_tokenizer(str(tmp_path)))


class TestWeightsOfAnotherModel:
    """Weights that the config leaves no place for are told, unless they are those of another head."""

    @pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
    @pytest.mark.parametrize("auto_class", [None, "AutoModel"])
    def test_fewer_blocks(self, architecture: str, auto_class: str | None, tmp_path: Path) -> None:
        tiny_model(architecture).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["n_layer" if "n_layer" in config else "num_hidden_layers"] = 1
        (tmp_path / "config.json").write_text(json.dumps(config))
        refuses(lambda: checkpoint.load_model(str(tmp_path), auto_class), "leaves no place")

    @pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "distilbert", "electra"])
    def test_a_head_that_is_not_used(self, architecture: str, tmp_path: Path) -> None:
        model = tiny_model(architecture)
        model.save_pretrained(tmp_path)
        base = checkpoint.load_model(str(tmp_path), "AutoModel")
        assert all(
            torch.equal(values, model.base_model.state_dict()[name]) for name, values in base.state_dict().items()
        )

    def test_a_pooler_and_buffers_of_old_files(self, tmp_path: Path) -> None:
        tiny_model("bert", "encoder").save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors") | {"embeddings.position_ids": torch.arange(64)[None]}
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        checkpoint.load_model(str(tmp_path))

    def test_a_bias_that_the_config_drops(self, tmp_path: Path) -> None:
        model = tiny_model("llama without groups", "language model")
        structure = read_structure(model)
        cut(structure, random_masks(structure))
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"mlp_bias": False}))
        refuses(lambda: checkpoint.load_model(str(tmp_path)), "mlp.down_proj.bias|leaves no place")
        with pytest.raises(ValueError, match="leaves no place"):
            AutoModelForCausalLM.from_pretrained(tmp_path)

    def test_far_larger_than_its_weights(self, tmp_path: Path) -> None:
        tiny_model("llama", "language model").save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        save_file({"model.norm.weight": weights["model.norm.weight"]}, tmp_path / "model.safetensors", {"format": "pt"})
        config = json.loads((tmp_path / "config.json").read_text()) | {"intermediate_size": 10**10}
        (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
        refuses(lambda: checkpoint.load_model(str(tmp_path)), "far more than its weights have")

    @pytest.mark.parametrize("name", ["num_labels", "num_hidden_layers"])
    def test_numbers_that_no_model_has(self, name: str, tmp_path: Path) -> None:
        tiny_model("bert").save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {name: 10**12}))
        refuses(lambda: checkpoint.load_model(str(tmp_path)), f"{name}=1000000000000, more than any model has")


class TestNamesAndCode:
    """A path that is misspelt is no name on the hub, and code in a checkpoint runs only where that is asked for."""

    @pytest.mark.parametrize("name", ["./bert", "a/b/c", "~/bert", "a\\b", "bert/", "x" * 200])
    def test_a_path_is_not_looked_up(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub, "is_reachable", lambda: pytest.fail("it was looked up"))
        for read in (checkpoint.load_model, checkpoint.load_config, checkpoint.load_tokenizer, hub.model_folder):
            refuses(lambda read=read: read(name), "is no local folder: check the path")

    def test_a_hub_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(hub, "_unreachable_since", [])
        for read in (checkpoint.load_model, checkpoint.load_config, checkpoint.load_tokenizer):
            refuses(lambda read=read: read("someone/berd"), r"127\.0\.0\.1:9 cannot be reached")

    @pytest.mark.usefixtures("own_code")
    def test_code_in_a_checkpoint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it was asked"))
        folder, marker = tmp_path / "own", tmp_path / "marker"
        folder.mkdir()
        (folder / "own.py").write_text(OWN_CODE.format(marker=str(marker)))
        code = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
        config = {"model_type": "own", "auto_map": code, "architectures": ["OwnModel"]}
        (folder / "config.json").write_text(json.dumps(config))
        save_file({"layer.weight": torch.eye(2), "layer.bias": torch.ones(2)}, folder / "model.safetensors")
        for read in (
            lambda: checkpoint.load_model(str(folder), "AutoModel"),
            lambda: checkpoint.load_config(str(folder)),
        ):
            refuses(read, "runs only if it is trusted: .*`trust_remote_code=True`")
        assert not marker.exists()
        model = checkpoint.load_model(str(folder), "AutoModel", trust_remote_code=True)
        assert marker.exists()
        assert model.layer.bias.tolist() == [1, 1]
