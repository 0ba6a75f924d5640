"""A checkpoint's files are told to be those that were saved, by the package and by the loader that lies in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from shutil import copytree

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import trimformer
from bare_python import without_the_package
from commands import Run
from conftest import TinyBert
from tiny_models import random_masks
from trimformer.errors import CheckpointError, DataError, TrimformerError
from trimformer.model import checkpoint
from trimformer.model.checksums import verify
from trimformer.model.manifest import read_manifest
from trimformer.model.modeling_trimformer import FILES
from trimformer.model.structure import read_structure
from trimformer.model.surgery import cut

FREE = ("README.md", *FILES)
LOADING = """
from transformers import AutoModelForSequenceClassification
found = {}
for folder in given:
    try:
        AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    except ValueError as error:
        found[folder] = str(error)
"""


@pytest.fixture
def saved(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """A pruned model with tokenizer, manifest and card."""
    model = tiny_bert(num_labels=3)
    structure = read_structure(model)
    cut(structure, random_masks(structure))
    texts = {"README.md": "# Small\n"}
    return checkpoint.write(model, tmp_path / "small", tokenizer=tokenizer, manifest={"method": "test"}, texts=texts)


def flip(file: Path, at: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(content)


def load(folder: Path) -> PreTrainedModel:
    checkpoint.load_tokenizer(str(folder))
    return checkpoint.load_model(str(folder))


def states(folder: Path) -> dict[str, str]:
    return {each.name: each.state for each in verify(folder)}


def test_every_flipped_bit_is_told_and_none_in_a_free_file_matters(saved: Path, tmp_path: Path) -> None:
    sound, generator = load(saved).state_dict(), torch.Generator().manual_seed(0)
    for file in sorted(saved.iterdir()):
        for turn in range(6 if file.name == "model.safetensors" else 2):
            copy = copytree(saved, tmp_path / f"{file.name}-{turn}")
            at, bit = (int(torch.randint(most, (), generator=generator)) for most in (file.stat().st_size, 7))
            flip(copy / file.name, at, bit)
            assert [each.name for each in verify(copy) if each.is_bad] == [file.name]
            if file.name in FREE:
                assert all(torch.equal(values, sound[name]) for name, values in load(copy).state_dict().items())
                continue
            with pytest.raises(CheckpointError, match=r"was changed: .*; make or download it again, or"):
                load(copy)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_missing_file(saved: Path, file: str) -> None:
    (saved / file).rename(saved.parent / "elsewhere")
    with pytest.raises(TrimformerError, match=rf"{re.escape(file)} is missing|is not a checkpoint"):
        load(saved)


def test_the_config_alone_is_checked(saved: Path) -> None:
    flip(saved / "model.safetensors", -1)
    assert checkpoint.load_config(str(saved)).model_type == "bert"
    (saved / "config.json").write_text((saved / "config.json").read_text().replace('"gelu"', '"relu"'))
    with pytest.raises(CheckpointError, match=r"config\.json is not as it was saved"):
        checkpoint.load_config(str(saved))


def test_from_pretrained_tells_it_as_well(saved: Path) -> None:
    flip(saved / "model.safetensors", -1)
    with pytest.raises(ValueError, match=r"model\.safetensors is not as it was saved"):
        AutoModelForSequenceClassification.from_pretrained(saved)


def test_weights_that_would_go_before_those_listed(saved: Path) -> None:
    index = {"metadata": {}, "weight_map": {"classifier.bias": "other.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json was added"):
        load(saved)


class TestChangesOnPurpose:
    """Whoever changes a checkpoint is not locked out."""

    def test_a_card_a_new_file_and_a_tokenizer_saved_again(self, saved: Path) -> None:
        AutoTokenizer.from_pretrained(saved).save_pretrained(saved)
        (saved / "README.md").write_text("mine")
        (saved / "notes.txt").write_text("mine")
        load(saved)
        found = states(saved)
        assert (found["README.md"], found["notes.txt"]) == ("changed", "not listed")

    def test_a_model_saved_into_the_folder(self, saved: Path) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(saved)
        with torch.no_grad():
            model.classifier.bias.fill_(7)
        model.save_pretrained(saved)
        assert load(saved).classifier.bias.tolist() == [7, 7, 7]
        assert read_manifest(saved) == {"method": "test"}
        assert states(saved)["model.safetensors"] == "readable"

    def test_they_are_accepted(self, saved: Path) -> None:
        config = json.loads((saved / "config.json").read_text()) | {"id2label": {"0": "a", "1": "b", "2": "c"}}
        (saved / "config.json").write_text(json.dumps(config))
        assert set(states(saved).values()) == {"whole", "changed"}
        assert all(each.state == "whole" for each in trimformer.verify(saved, accept=True))
        assert load(saved).config.id2label[0] == "a"
        assert read_manifest(saved) == {"method": "test"}

    def test_what_cannot_be_read_is_not_accepted(self, saved: Path) -> None:
        (saved / "model.safetensors").write_bytes(b"x" * 100)
        before = (saved / "trimformer.json").read_text()
        with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
            verify(saved, accept=True)
        assert (saved / "trimformer.json").read_text() == before

    def test_a_manifest_laid_out_otherwise_is_the_same(self, saved: Path) -> None:
        facts = json.loads((saved / "trimformer.json").read_text())
        (saved / "trimformer.json").write_text(json.dumps(dict(reversed(facts.items()))))
        assert set(states(saved).values()) == {"whole"}


class TestManifest:
    """The list of files is covered itself, and leads nowhere else."""

    def change(self, saved: Path, **entries: object) -> None:
        facts = json.loads((saved / "trimformer.json").read_text())
        (saved / "trimformer.json").write_text(json.dumps(facts | entries))

    def test_a_changed_fact(self, saved: Path) -> None:
        self.change(saved, method="other")
        with pytest.raises(CheckpointError, match=r"trimformer\.json is not as it was saved"):
            load(saved)
        with pytest.raises(DataError, match="not as it was saved"):
            read_manifest(saved)
        assert states(saved) == {"trimformer.json": "damaged"}

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ([], "no list of files"),
            ({"format": 3, "files": {}}, "is of format 3, known is 2: update trimformer"),
            ({"format": 2, "files": {"../config.json": "0"}}, "not as it was saved"),
        ],
    )
    def test_another_list(self, saved: Path, entry: object, said: str) -> None:
        self.change(saved, checkpoint=entry)
        with pytest.raises(CheckpointError, match=said):
            load(saved)

    def test_a_folder_without_one_loads(self, saved: Path) -> None:
        self_made = json.loads((saved / "trimformer.json").read_text())
        del self_made["checkpoint"]
        (saved / "trimformer.json").write_text(json.dumps(self_made))
        load(saved)
        assert states(saved)["model.safetensors"] == "readable"


def test_the_command(saved: Path, run: Run, tmp_path: Path, tiny_bert: TinyBert) -> None:
    good = run("verify", saved)
    assert (good.code, "whole" in good.out) == (0, True)
    flip(saved / "model.safetensors", -1)
    bad = run("verify", saved)
    assert bad.code == 2
    assert "the model is refused" in bad.out
    assert "1 of" in bad.err
    assert "--accept" in bad.err
    assert run("verify", saved, "--accept").code == 0
    dense = checkpoint.write(tiny_bert(), tmp_path / "dense")
    told = run("verify", dense)
    assert (told.code, "cannot be told" in " ".join(told.out.split())) == (0, True)
    (dense / "model.safetensors").write_bytes(b"x")
    assert run("verify", dense).code == 2
    assert run("verify", tmp_path / "nothing").code == 2


def test_the_loader_in_the_checkpoint_checks_without_the_package(saved: Path, tmp_path: Path) -> None:
    def changed(name: str, path: str, value: object) -> Path:
        """A copy whose config gives something else, and is accepted by its checksums."""
        copy = copytree(saved, tmp_path / name)
        config = json.loads((copy / "config.json").read_text())
        config["quantization_config"].setdefault(path, {}).update(value)
        (copy / "config.json").write_text(json.dumps(config))
        (copy / "trimformer.json").unlink()
        return copy

    core, ffn = "encoder.layer.0.attention.self", "encoder.layer.1.output.dense"
    heads = len(
        json.loads((saved / "config.json").read_text())["quantization_config"]["kept"]["encoder.layer.0.attention"]
    )
    flipped = copytree(saved, tmp_path / "flipped")
    flip(flipped / "model.safetensors", -1)
    folders = {
        flipped: "model.safetensors is not as it was saved",
        changed("scaling", "attributes", {f"{core}.scaling": 0}): "scaling",
        changed("width", "attributes", {f"{core}.attention_head_size": 2 * heads}): "does not fit its projections",
        changed("eps", "attributes", {"encoder.layer.1.output.LayerNorm.eps": 100}): "LayerNorm.eps",
        changed("null", "attributes", {f"{ffn}.bias": None}): "dense.bias",
        changed("modules", "attributes", {"_modules": {}}): "_modules",
        changed("heads", "attributes", {f"{core}.num_attention_heads": heads % 3 + 1}): "does not fit its projections",
        changed("big", "linears", {ffn: [24_000_000, 32]}): "of a projection that has [48, 32]",
        changed("both", "linears", {ffn: [24, 16]}): "cuts inputs and outputs",
        changed("embeddings", "empty", {"embeddings": []}): "has no heads",
        changed("unknown", "scalings", {core: 1}): "'scalings', which is not known here",
    }
    said = without_the_package(LOADING, [*map(str, folders), str(saved)], tmp_path)
    assert str(saved) not in said
    for folder, expected in folders.items():
        assert expected in said[str(folder)]


def test_verify_says_it_to_programs(saved: Path, run: Run) -> None:
    done = run("verify", saved, "--json")
    assert done.code == 0, done.err
    assert {each["name"]: each["state"] for each in json.loads(done.out)} == states(saved)
