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
import transformers
from transformers import AutoConfig, PreTrainedTokenizerBase

from tiny_models import tiny_model
from trimformer.errors import CheckpointError
from trimformer.model import checkpoint

FAULTS = Path(__file__).parents[3] / "shared" / "cases" / "faults"
SECONDS = 10
ONE_LINE = r"is damaged|that pads with"


def refuses(act: Callable[[], Any], said: str = ONE_LINE) -> None:
    """The act is refused in one line, within the time that nobody takes for a hang."""
    began = monotonic()
    with pytest.raises(CheckpointError, match=said) as caught:
        act()
    print("MSG", caught.value)
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
