"""Pooling is what the checkpoint's files say: against loops over tokens, and against sentence-transformers itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

import trimformer
from tiny_models import tiny_model
from trimformer import Budget, Pruner, plugins
from trimformer.errors import CheckpointError, InvalidOption, UnsupportedModel
from trimformer.model import checkpoint
from trimformer.model.pooling import MODES, Dense, Normalize, Pooling
from trimformer.model.sentence_files import (
    PROMPTS,
    Prompts,
    choose_pooling,
    pooling_of,
    read_pooling,
    read_prompts,
    sentence_transformers_files,
)
from trimformer.observing.measurements import to_tensors
from trimformer.observing.predictions import predictions
from trimformer.pruning.fingerprint import measured_key

TEXTS = ["the red cat", "a dog saw the big green house in the old city", "tree", "who built the river"]
PREFIX = "sentence_transformers.models."


def plainly(tokens: list[np.ndarray], mode: str) -> np.ndarray:
    """The definition, over one row's real tokens."""
    stacked = np.stack(tokens)
    places = np.arange(1, len(tokens) + 1)[:, None]
    return {
        "cls": lambda: tokens[0],
        "lasttoken": lambda: tokens[-1],
        "max": lambda: stacked.max(0),
        "mean": lambda: sum(tokens) / len(tokens),
        "mean_sqrt_len_tokens": lambda: sum(tokens) / math.sqrt(len(tokens)),
        "weightedmean": lambda: (stacked * places).sum(0) / places.sum(),
    }[mode]()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_its_definition(mode: str, side: str) -> None:
    hidden = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0)) - 3
    lengths = [6, 1, 4]
    right = torch.tensor([[1] * length + [0] * (6 - length) for length in lengths])
    mask = right if side == "right" else right.flip(1)
    found = Pooling((mode,))(hidden, mask)
    for row in range(3):
        tokens = [hidden[row, place].double().numpy() for place in range(6) if mask[row, place]]
        np.testing.assert_allclose(found[row].numpy(), plainly(tokens, mode), atol=1e-6)


def test_layers_come_in_their_order() -> None:
    hidden, mask = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3)
    weight, bias = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), torch.arange(5.0)
    dense = Dense(weight, bias, torch.nn.Tanh())
    pooled = hidden[:, 0]
    torch.testing.assert_close(
        Pooling(("cls",), (Normalize(), dense))(hidden, mask), (F.normalize(pooled) @ weight.T + bias).tanh()
    )
    torch.testing.assert_close(
        Pooling(("cls",), (dense, Normalize()))(hidden, mask), F.normalize((pooled @ weight.T + bias).tanh())
    )


def describe(folder: Path, pooling: Any, *modules: str, prompts: Any = None, dense: Tensor | None = None) -> str:
    """Write the files that sentence-transformers reads beside the weights."""
    folder.mkdir(exist_ok=True)
    kinds = ["Transformer", "Pooling", *modules]
    entries = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "", "type": PREFIX + kind}
        for index, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    for entry in entries[1:]:
        (folder / entry["path"]).mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    if dense is not None:
        settings = {
            "in_features": dense.shape[1],
            "out_features": dense.shape[0],
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        at = folder / entries[2]["path"]
        (at / "config.json").write_text(json.dumps(settings))
        save_file({"linear.weight": dense}, at / "model.safetensors")
    return str(folder)


class TestReading:
    @pytest.mark.parametrize(
        ("config", "modes"),
        [
            ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("mean",)),
            ({"pooling_mode_cls_token": True, "include_prompt": True}, ("cls",)),
            ({"pooling_mode_max_tokens": True}, ("max",)),
            ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len_tokens",)),
            ({"pooling_mode_weightedmean_tokens": True}, ("weightedmean",)),
            ({"pooling_mode_lasttoken": True}, ("lasttoken",)),
            ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
            ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
            ({"pooling_mode": ["mean", "max"]}, ("mean", "max")),
        ],
    )
    def test_both_forms_of_the_file(self, config: Any, modes: tuple[str, ...], tmp_path: Path) -> None:
        assert read_pooling(describe(tmp_path, config)) == Pooling(modes)
        assert read_pooling(describe(tmp_path / "normal", config, "Normalize")) == Pooling(modes, (Normalize(),))

    def test_dense_modules(self, tmp_path: Path) -> None:
        found = read_pooling(describe(tmp_path, {"pooling_mode": "mean"}, "Dense", "Normalize", dense=torch.eye(3, 4)))
        assert found is not None
        dense, normalize = found.layers
        assert isinstance(dense, Dense)
        assert torch.equal(dense.weight, torch.eye(3, 4))
        assert dense.bias is None
        assert normalize == Normalize()
        (tmp_path / "2_Dense" / "model.safetensors").unlink()
        with pytest.raises(UnsupportedModel, match="pickles are not read"):
            read_pooling(str(tmp_path))

    @pytest.mark.parametrize(
        ("config", "modules", "said"),
        [
            ({"pooling_mode": "mean"}, ["LSTM"], "the module LSTM.*`pooling=mean`"),
            ({"pooling_mode": "best"}, [], "pools by best: known are cls"),
            ({"pooling_mode_mean_tokens": False}, [], "pools by nothing"),
            ({"pooling_mode": "mean", "include_prompt": False}, [], "leaves its prompts out"),
            ({"pooling_mode": "mean"}, ["Dense", {"use_residual": True}], "a Dense module of another kind"),
            ({"pooling_mode": "mean"}, ["Dense", {"module_input_name": "tokens"}], "a Dense module of another kind"),
            ({"pooling_mode": "mean"}, ["Dense", {"activation_function": "os.system"}], "has the activation os.system"),
            ({"pooling_mode": "mean"}, ["Dense", {"activation_function": "torch.nn.init"}], "the activation torch.nn"),
        ],
    )
    def test_unknown(self, config: Any, modules: list[Any], said: str, tmp_path: Path) -> None:
        kinds = [kind for kind in modules if isinstance(kind, str)]
        name = describe(tmp_path, config, *kinds, prompts={"prompts": {"query": "q: "}})
        for settings in modules[len(kinds) :]:
            (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(settings))
            save_file({"linear.weight": torch.eye(2)}, tmp_path / "2_Dense" / "model.safetensors")
        with pytest.raises(UnsupportedModel, match=said):
            read_pooling(name)

    def test_a_dense_module_without_weights(self, tmp_path: Path) -> None:
        name = describe(tmp_path, {"pooling_mode": "mean"}, "Dense", dense=torch.eye(2))
        save_file({"weight": torch.eye(2)}, tmp_path / "2_Dense" / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"has no linear\.weight"):
            read_pooling(name)

    def test_no_pooling(self, tmp_path: Path) -> None:
        (tmp_path / "modules.json").write_text('[{"type": "x.Transformer", "path": ""}]')
        with pytest.raises(UnsupportedModel, match=r"has no module Pooling.*`pooling=mean`"):
            read_pooling(str(tmp_path))

    @pytest.mark.parametrize("prompts", [["q: "], {"query": 1}])
    def test_damaged_prompts(self, prompts: Any, tmp_path: Path) -> None:
        name = describe(tmp_path, {"pooling_mode": "mean"}, prompts={"prompts": prompts})
        with pytest.raises(CheckpointError, match="must have prompts as an object of texts"):
            read_prompts(name)

    @pytest.mark.parametrize(
        ("modules", "config", "said"),
        [
            ("{", "{}", r"modules\.json cannot be read"),
            ("[{}]", "{}", r"modules\.json must be a list of modules"),
            ('[{"type": "x.Pooling", "path": 1}]', "{}", r"modules\.json must be a list of modules"),
            ('[{"type": "x.Pooling", "path": "1"}]', "[]", r"config\.json must be an object"),
            ('[{"type": "x.Pooling", "path": "1"}]', '{"pooling_mode": [1]}', r"names as pooling_mode, not \[1\]"),
            ('[{"type": "x.Pooling", "path": "2"}]', "{}", r"config\.json cannot be read"),
        ],
    )
    def test_damaged(self, modules: str, config: str, said: str, tmp_path: Path) -> None:
        (tmp_path / "modules.json").write_text(modules)
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "config.json").write_text(config)
        with pytest.raises(CheckpointError, match=said):
            read_pooling(str(tmp_path))

    def test_a_folder_that_says_nothing(self, tmp_path: Path) -> None:
        assert read_pooling(str(tmp_path)) is None
        assert read_prompts(str(tmp_path)) == Prompts()

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ({"prompts": {}}, Prompts()),
            ({"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": None}, Prompts("q: ", "", "")),
            (
                {"prompts": {"query": "q: ", "passage": "p: "}, "default_prompt_name": "query"},
                Prompts("q: ", "p: ", "q: "),
            ),
            ({"prompts": {"all": "x"}, "default_prompt_name": "all"}, Prompts("x", "x", "x")),
        ],
    )
    def test_prompts(self, config: Any, expected: Prompts, tmp_path: Path) -> None:
        assert read_prompts(describe(tmp_path, {"pooling_mode": "mean"}, prompts=config)) == expected

    def test_a_name_on_the_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        kept = tmp_path / "models--someone--encoder"
        (kept / "refs").mkdir(parents=True)
        (kept / "refs" / "main").write_text("abc")
        (kept / "snapshots").mkdir()
        describe(kept / "snapshots" / "abc", {"pooling_mode": "lasttoken"}, prompts={"prompts": {"query": "q: "}})
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert read_pooling("someone/encoder") == Pooling(("lasttoken",))
        assert read_prompts("someone/encoder").query == "q: "
        assert read_pooling("someone/other") is None
        found = sentence_transformers_files("someone/encoder")
        assert set(found) == {"modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"}


@pytest.fixture
def first_token(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> str:
    """A folder of an encoder that embeds by its first token, as BGE does."""
    model = tiny_model("bert", "encoder", vocab_size=len(tokenizer))
    folder = checkpoint.write(model, tmp_path / "first", tokenizer=tokenizer)
    return describe(folder, {"pooling_mode_cls_token": True, "word_embedding_dimension": 32}, "Normalize")


def embedded(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    with torch.no_grad():
        return predictions(model(**batch), batch, model).values[:, 0]


def first_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0] for text in TEXTS]
    return F.normalize(torch.stack(rows), dim=-1)


class TestOfModels:
    def test_predictions_follow_the_folder(self, first_token: str, tokenizer: PreTrainedTokenizerBase) -> None:
        for model in (checkpoint.load_model(first_token), AutoModel.from_pretrained(first_token).eval()):
            torch.testing.assert_close(embedded(model, tokenizer), first_of(model, tokenizer), atol=1e-5, rtol=0)

    def test_without_files_it_is_the_mean_and_says_so(self, tokenizer: PreTrainedTokenizerBase) -> None:
        model = tiny_model("bert", "encoder", vocab_size=len(tokenizer))
        assert pooling_of(model) == Pooling(("mean",))
        assert pooling_of(model).said_by == "nothing"

    def test_a_user_has_the_last_word(self, first_token: str) -> None:
        model = checkpoint.load_model(first_token, pooling="lasttoken")
        assert pooling_of(model) == Pooling(("lasttoken",))
        with pytest.raises(InvalidOption, match=r"unknown pooling 'last'.*lasttoken"):
            choose_pooling(model, "last")

    def test_calibration_measures_what_is_pooled(self, first_token: str, tokenizer: PreTrainedTokenizerBase) -> None:
        found = {}
        for mode in (None, "cls", "mean"):
            model = checkpoint.load_model(first_token, pooling=mode)
            pruner = Pruner(model, TEXTS, tokenizer=tokenizer, calibration_tokens=None)
            found[mode] = to_tensors(pruner.measured)
        for name, values in found[None].items():
            torch.testing.assert_close(values, found["cls"][name], atol=1e-4, rtol=1e-4)
        assert any(not torch.allclose(values, found["mean"][name]) for name, values in found[None].items())

    def test_a_pruned_model_pools_alike(self, first_token: str, tokenizer: PreTrainedTokenizerBase) -> None:
        model = checkpoint.load_model(first_token)
        pruner = Pruner(model, TEXTS, tokenizer=tokenizer, calibration_tokens=None)
        pruned = pruner.prune(Budget(flops=0.5)).model
        assert pooling_of(pruned) == pooling_of(model) == Pooling(("cls",), (Normalize(),))
        torch.testing.assert_close(embedded(pruned, tokenizer), first_of(pruned, tokenizer), atol=1e-5, rtol=0)

    def test_measurements_are_kept_by_pooling(self, first_token: str, tokenizer: PreTrainedTokenizerBase) -> None:
        keys = []
        for mode in (None, "mean"):
            model = checkpoint.load_model(first_token, pooling=mode)
            pruner = Pruner(model, TEXTS, tokenizer=tokenizer, calibration_tokens=None)
            keys.append(measured_key(pruner.calibration, pruner.name, pruner.method))
        assert keys[0] != keys[1]

    @pytest.mark.parametrize(("scores", "before"), [({}, ("find: ", "page: ")), ({"score": [1.0] * 4}, ("", ""))])
    def test_prompts_stand_before_the_texts(self, scores: dict[str, Any], before: Any, first_token: str) -> None:
        prompts = {"prompts": {"query": "find: ", "document": "page: "}}
        (Path(first_token) / PROMPTS).write_text(json.dumps(prompts))
        tokenizer = checkpoint.load_tokenizer(first_token)
        rows = Dataset.from_dict({"first": TEXTS, "second": TEXTS[::-1], **scores})
        texts = dict.fromkeys([before[0] + text for text in TEXTS] + [before[1] + text for text in TEXTS[::-1]])
        expected = [tokenizer(text)["input_ids"] for text in texts]
        found = plugins.load("tasks", "embedding").encode(rows, tokenizer)
        assert [row["input_ids"] for row in found] == expected


@pytest.mark.parametrize("mode", MODES)
def test_sentence_transformers_says_the_same(mode: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = tiny_model("bert", "encoder", vocab_size=len(tokenizer))
    folder = checkpoint.write(model, tmp_path / "own", tokenizer=tokenizer)
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    describe(folder, {"pooling_mode": mode, "embedding_dimension": 32}, "Dense", "Normalize", dense=weight)
    loaded = checkpoint.load_model(str(folder))
    result = trimformer.prune(
        loaded, TEXTS * 3, tokenizer=tokenizer, budget=Budget(flops=0.6), method="magnitude", calibration_tokens=None
    )
    files = sentence_transformers_files(str(folder))
    checkpoint.write(result.model, tmp_path / "small", tokenizer=tokenizer, extra_files=files)
    for name, own in ((str(folder), loaded), (str(tmp_path / "small"), result.model)):
        encoder = sentence_transformers.SentenceTransformer(name, device="cpu")
        expected = torch.tensor(encoder.encode(TEXTS))
        torch.testing.assert_close(embedded(own, tokenizer), expected, atol=1e-5, rtol=0)
