"""Checkpoints that version 0.1 wrote stay readable: by the package, and by the loader that lies in them.

`tests/stored/0.1` has three, written by that version, each with the logits that the dense model, masked, gave for its
rows. Their loader is the same in all, and stands there once. It cannot be changed any more.
"""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copy, copytree

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from bare_python import without_the_package
from trimformer.model import checkpoint
from trimformer.model.checksums import verify
from trimformer.model.structure import read_structure

STORED = Path(__file__).parents[1] / "stored" / "0.1"
AUTO = {"bert": AutoModelForSequenceClassification, "llama": AutoModelForCausalLM, "gpt2": AutoModelForCausalLM}
LOADER = "modeling_trimformer.py"
BY_ITS_OWN_LOADER = """
import json, torch, transformers
found = {}
for folder, auto in given:
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
    rows = json.load(open(folder + "/expected.json"))
    ids, mask = torch.tensor(rows["input_ids"]), torch.tensor(rows["attention_mask"])
    with torch.no_grad():
        found[folder] = model(input_ids=ids, attention_mask=mask).logits.tolist()
"""


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """The stored checkpoints as they were written, by architecture."""
    for name in AUTO:
        copytree(STORED / name, tmp_path / name)
        copy(STORED / LOADER, tmp_path / name)
    return {name: tmp_path / name for name in AUTO}


def given(folder: Path) -> dict[str, torch.Tensor]:
    stored = json.loads((folder / "expected.json").read_text())
    return {name: torch.tensor(values) for name, values in stored.items()}


def assert_as_stored(folder: Path, logits: torch.Tensor) -> None:
    stored = given(folder)
    real = stored["attention_mask"].bool() if logits.ndim == 3 else torch.ones(len(logits)).bool()
    torch.testing.assert_close(logits[real], stored["logits"][real], atol=1e-5, rtol=0)


@torch.no_grad()
def logits_of(model: PreTrainedModel, folder: Path) -> torch.Tensor:
    stored = given(folder)
    return model.eval()(input_ids=stored["input_ids"], attention_mask=stored["attention_mask"]).logits


@pytest.mark.parametrize("trusts", [False, True], ids=["by the package", "by the package, its own file trusted"])
@pytest.mark.parametrize("name", AUTO)
def test_the_package_loads_it(name: str, trusts: bool, folders: dict[str, Path]) -> None:
    folder = folders[name]
    model, report = AUTO[name].from_pretrained(folder, trust_remote_code=trusts, output_loading_info=True)
    assert not (report["missing_keys"] | report["unexpected_keys"])
    assert_as_stored(folder, logits_of(model, folder))
    assert type(model) is getattr(transformers, model.config.architectures[0])
    assert all(parameter.numel() for parameter in model.parameters())
    seen = model(given(folder)["input_ids"], output_hidden_states=True)
    assert len(seen.hidden_states) == 4
    structure = read_structure(model)
    assert next(iter(structure)).units == 0


@pytest.mark.parametrize("name", AUTO)
def test_it_is_written_as_today(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    model = checkpoint.load_model(str(folders[name]))
    again = checkpoint.write(model, tmp_path / "again")
    assert (again / LOADER).read_text() != (STORED / LOADER).read_text()
    assert_as_stored(folders[name], logits_of(checkpoint.load_model(str(again)), folders[name]))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_it_generates_what_it_would_without_a_cache(name: str, folders: dict[str, Path]) -> None:
    model = AUTO[name].from_pretrained(folders[name])
    row = given(folders[name])["input_ids"][:1]
    long = [
        model.generate(row, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=c) for c in (True, False)
    ]
    assert torch.equal(*long)


def test_its_own_loader_loads_it_where_the_package_is_not(folders: dict[str, Path], tmp_path: Path) -> None:
    jobs = [(str(folder), AUTO[name].__name__) for name, folder in folders.items()]
    for folder, logits in without_the_package(BY_ITS_OWN_LOADER, jobs, tmp_path).items():
        assert_as_stored(Path(folder), torch.tensor(logits))


def test_format_2_loads_with_all_its_checksums() -> None:
    """Written when checksums were new and gates were not, without the loader's files, which nobody misses."""
    folder = STORED.parent / "format-2" / "gpt2"
    model = checkpoint.load_model(str(folder))
    assert_as_stored(folder, logits_of(model, folder))
    assert len(checkpoint.load_tokenizer(str(folder))) == 106
    states = {each.name: each.state for each in verify(folder)}
    listed = dict.fromkeys((LOADER, "trimformer_checks.py", "trimformer_modules.py"), "missing")
    assert {name: state for name, state in states.items() if state != "whole"} == listed
