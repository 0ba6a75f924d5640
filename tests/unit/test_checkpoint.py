"""A pruned checkpoint loads wherever a dense one does, and is there whole or not at all."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.dynamic_module_utils import get_relative_import_files

from bare_python import without_the_package
from conftest import TinyBert
from tiny_models import random_masks, tiny_model
from trimformer.errors import CheckpointError, TrimformerError
from trimformer.model import checkpoint, folders, modeling_trimformer
from trimformer.model.gating import gates, with_gates
from trimformer.model.manifest import read_manifest
from trimformer.model.modeling_trimformer import FILES
from trimformer.model.sentence_files import sentence_transformers_files
from trimformer.model.structure import parameter_count, read_structure
from trimformer.model.surgery import cut, pruning_config
from trimformer.model.weights import file_bytes, stored_tensors

TEXTS = ["the red cat saw a dog", "who built the old city?"]

USE = """
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
found = []
for source, target in given["jobs"]:
    model = AutoModelForSequenceClassification.from_pretrained(source, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        logits = model(**tokenizer(given["texts"], padding=True, return_tensors="pt")).logits
    classifier = pipeline("text-classification", model=source, device="cpu", trust_remote_code=True)
    count = sum(parameter.numel() for parameter in model.parameters())
    found.append([logits.tolist(), [row["score"] for row in classifier(given["texts"])], count])
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
"""


@pytest.fixture
def small(tiny_bert: TinyBert) -> PreTrainedModel:
    """Uneven, one attention and one FFN empty."""
    model = tiny_bert(num_labels=3, num_hidden_layers=3)
    structure = read_structure(model)
    masks = random_masks(structure)
    emptied = {("head", 0), ("neuron", 2)}
    cut(structure, {site.name: masks[site.name] & ((site.kind, site.block) not in emptied) for site in structure})
    return model


@pytest.fixture
def saved(small: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    return checkpoint.write(small, tmp_path / "small", tokenizer=tokenizer, manifest={"method": "test"})


def logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits


def use_without_the_package(jobs: list[tuple[Path, Path]], tmp_path: Path) -> list[list]:
    """Load each first folder, use the model, save it to the second."""
    given = {"texts": TEXTS, "jobs": [[*map(str, job)] for job in jobs]}
    return without_the_package(USE, given, tmp_path)


@pytest.fixture
def gated(tiny_bert: TinyBert) -> PreTrainedModel:
    """With gates that decide row by row, at random."""
    model = with_gates(read_structure(tiny_bert(num_labels=3)), seed=0).eval()
    for gate in gates(model).values():
        torch.nn.init.normal_(gate.last.weight, generator=torch.Generator().manual_seed(0))
    return model


def test_it_loads_with_and_without_the_package_and_is_saved_again(
    small: PreTrainedModel, gated: PreTrainedModel, saved: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    by_package, by_file, last = (tmp_path / name for name in ("by-package", "by-file", "last"))
    AutoModelForSequenceClassification.from_pretrained(saved).save_pretrained(by_package)
    tokenizer.save_pretrained(by_package)
    gates_too = checkpoint.write(gated, tmp_path / "gated", tokenizer=tokenizer)
    jobs = [(saved, by_file), (by_package, last), (by_file, last), (gates_too, tmp_path / "gated-last")]
    *runs, (of_gated, *_) = use_without_the_package(jobs, tmp_path)
    torch.testing.assert_close(torch.tensor(of_gated), logits(gated, tokenizer), atol=1e-6, rtol=0)
    expected = logits(small, tokenizer)
    for found, scores, count in runs:
        torch.testing.assert_close(torch.tensor(found), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.tensor(scores), expected.softmax(-1).amax(-1), atol=1e-6, rtol=0)
        assert count == parameter_count(small)
    for folder in (by_package, by_file, last):
        again = AutoModelForSequenceClassification.from_pretrained(folder)
        assert all(torch.equal(value, small.state_dict()[name]) for name, value in again.state_dict().items())
        assert pruning_config(read_structure(again)).kept == pruning_config(read_structure(small)).kept


def test_the_files_for_others_are_all_that_transformers_copies(saved: Path) -> None:
    """It scans the first for relative imports, and those that it finds, and runs none that it has not copied."""
    found = {Path(file).name for file in get_relative_import_files(saved / "modeling_trimformer.py")}
    assert {"modeling_trimformer.py", *found} == {file.name for file in saved.glob("*.py")} == set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_a_file_for_others_needs_no_package(saved: Path, file: str) -> None:
    assert "trimformer" not in {
        line.split()[1].split(".")[0]
        for line in (saved / file).read_text().splitlines()
        if line.startswith(("import ", "from "))
    }


def test_a_checkpoint_holds_safetensors_the_manifest_and_the_kept_units(saved: Path, small: PreTrainedModel) -> None:
    names = {file.name for file in saved.iterdir()}
    assert {"config.json", "model.safetensors", "modeling_trimformer.py", "trimformer.json"} <= names
    assert not {name for name in names if name.endswith((".bin", ".pkl", ".pt"))}
    assert read_manifest(saved) == {"method": "test"}
    written = json.loads((saved / "config.json").read_text())["quantization_config"]
    assert written["quant_method"] == "trimformer"
    assert written["kept"] == pruning_config(read_structure(small)).kept


def test_a_dense_checkpoint_has_nothing_added(tiny_bert: TinyBert, tmp_path: Path) -> None:
    folder = checkpoint.write(tiny_bert(), tmp_path / "dense")
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


def test_weights_keep_the_names_that_the_class_has(tiny_bert: TinyBert, tmp_path: Path) -> None:
    checkpoint.write(tiny_bert(), tmp_path / "first")
    loaded = checkpoint.load_model(str(tmp_path / "first"))
    checkpoint.write(loaded, tmp_path / "second")
    assert load_file(tmp_path / "second" / "model.safetensors").keys() == loaded.state_dict().keys()


def test_load_model_takes_the_class_of_the_checkpoint(saved: Path, small: PreTrainedModel) -> None:
    loaded = checkpoint.load_model(str(saved))
    assert type(loaded) is type(small)
    assert not loaded.training
    assert len(checkpoint.load_tokenizer(str(saved))) == small.config.vocab_size


def test_half_precision_is_saved_and_verified(small: PreTrainedModel, tmp_path: Path) -> None:
    folder = checkpoint.write(small.to(torch.bfloat16), tmp_path / "half")
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto")
    assert loaded.dtype is torch.bfloat16
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_loaded_model_is_no_quantized_one(saved: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    assert not getattr(model, "is_quantized", False)
    assert not hasattr(model, "hf_quantizer")
    assert model.to(torch.float64).dtype is torch.float64


def test_plain_save_pretrained_takes_the_file_for_others_along(small: PreTrainedModel, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path / "first")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    for folder in (tmp_path / "first", tmp_path / "second"):
        auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
        assert auto_map == {
            "AutoModel": "modeling_trimformer.BertModel",
            "AutoModelForSequenceClassification": "modeling_trimformer.BertForSequenceClassification",
        }
        assert (folder / "modeling_trimformer.py").exists()


def test_trainer_trains_it_and_saves_it_again(saved: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    before = {name: value.clone() for name, value in model.named_parameters()}
    rows = [{"input_ids": tokenizer(text)["input_ids"][:6], "label": label} for label, text in enumerate(TEXTS)]
    arguments = TrainingArguments(
        tmp_path / "runs",
        max_steps=2,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        per_device_train_batch_size=2,
        dataloader_pin_memory=False,
        save_strategy="no",
    )
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
    assert trainer.train().training_loss > 0
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in before if "key.bias" not in name and before[name].numel()} <= changed
    trainer.save_model(str(tmp_path / "trained"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "trained")
    torch.testing.assert_close(logits(again, tokenizer), logits(model, tokenizer), atol=1e-6, rtol=0)
    AutoTokenizer.from_pretrained(tmp_path / "trained")


def test_pipeline_in_this_process(saved: Path, small: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    answers = pipeline("text-classification", model=str(saved), device="cpu")(TEXTS)
    best = logits(small, tokenizer).argmax(-1)
    assert [answer["label"] for answer in answers] == [small.config.id2label[int(index)] for index in best]


class TestDamaged:
    """What cannot be read is one CheckpointError that names the folder and what is wrong, without checksums too."""

    @pytest.fixture
    def saved(self, saved: Path) -> Path:
        (saved / "trimformer.json").unlink()
        return saved

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("model.safetensors", None),
            ("model.safetensors", b""),
            ("model.safetensors", b"\x10\0\0\0\0\0\0\0not a json head"),
            ("model.safetensors", "half"),
            ("config.json", b"{"),
            ("config.json", b"[]"),
            ("config.json", b"{}"),
            ("config.json", b'{"model_type": "bert", "architectures": ["NoSuchModel"]}'),
            ("config.json", b'{"model_type": "no-such-type", "architectures": ["BertModel"]}'),
            ("config.json", "other sizes"),
            ("config.json", "no sizes"),
            ("config.json", "wrong path"),
        ],
    )
    def test_it_is_named(self, saved: Path, file: str, content: bytes | str | None) -> None:
        damage(saved / file, content)
        with pytest.raises(TrimformerError, match="small ") as caught:
            checkpoint.load_model(str(saved))
        assert isinstance(caught.value, CheckpointError) or "NoSuchModel" in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("path", "value", "said"),
        [
            ("architectures", "BertModel", "architectures='BertModel', which must be a list"),
            ("auto_map", "8", "auto_map='8', which must be an object"),
            ("quantization_config.quant_method", [], "quantization_config=.* with a quant_method"),
            ("quantization_config.attributes", False, r"quantization_config\.attributes .* wrong type: False"),
            (
                "quantization_config.linears",
                {"encoder": ["a", 1]},
                r"quantization_config\.linears .* at 'encoder' what cannot be",
            ),
            (
                "quantization_config.kept",
                {"encoder.layer.0.ffn": [-1]},
                r"quantization_config\.kept .* what cannot be: \[-1\]",
            ),
            ("quantization_config.attributes", {"_modules": 3}, "sets _modules, which is no size that BertModel has"),
            ("quantization_config.format", 99, "is of the format 99, known is 2: update trimformer"),
            ("quantization_config.format", "two", "is of the format 'two'"),
            (
                "quantization_config.by_head",
                {"encoder.layer.0.attention": {"kept": [0]}},
                r"quantization_config\.by_head .* what cannot be",
            ),
            (
                "quantization_config.kept",
                {"encoder.layer.0.ffn": [0, 4_000]},
                r"keeps units of encoder\.layer\.0\.ffn that it cannot have had",
            ),
            (
                "quantization_config.attributes",
                {"encoder.layer.0.attention.self.num_attention_heads": 3},
                r"to 3, which does not fit its projections \(it was 4\)",
            ),
            ("quantization_config.biases", ["encoder"], "encoder is a BertEncoder, the checkpoint expects"),
            ("quantization_config.empty", {"embeddings": None}, "embeddings has no heads, which is a BertEmbeddings"),
            ("num_attention_heads", 0, r"modulo by zero|division by zero"),
            ("num_hidden_layers", 1_000, r"1000 blocks, but there are \d+ weights"),
            ("num_hidden_layers", 1_000_000, "num_hidden_layers=1000000, more than any model has"),
            ("pad_token_id", {"a": 1}, "pad_token_id|config.json describes no model"),
            ("hidden_act", "no-such", "no-such"),
            ("dtype", "no-such", "no-such"),
        ],
    )
    def test_a_config_of_something_else(self, saved: Path, path: str, value: object, said: str) -> None:
        config = json.loads((saved / "config.json").read_text())
        *owner, name = path.split(".")
        (config[owner[0]] if owner else config)[name] = value
        (saved / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=f"small is damaged or incomplete: .*{said}"):
            checkpoint.load_model(str(saved))

    def test_an_index_without_files(self, saved: Path) -> None:
        (saved / "model.safetensors.index.json").write_text('{"weight_map": []}')
        with pytest.raises(CheckpointError, match=r"index\.json has no weight_map of file names"):
            checkpoint.load_model(str(saved))

    @pytest.mark.parametrize("bug", [AttributeError, TypeError, KeyError, RuntimeError])
    def test_a_bug_of_ours_is_not_called_damage(
        self, saved: Path, bug: type[Exception], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def planted(*_: object) -> None:
            raise bug("a bug of ours")

        monkeypatch.setattr(modeling_trimformer, "reshape", planted)
        with pytest.raises(bug, match="a bug of ours"):
            checkpoint.load_model(str(saved))

    def test_no_config(self, saved: Path) -> None:
        (saved / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"is not a checkpoint: a folder with config\.json"):
            checkpoint.load_model(str(saved))

    def test_a_file(self, saved: Path) -> None:
        with pytest.raises(CheckpointError, match="is not a checkpoint"):
            checkpoint.load_model(str(saved / "model.safetensors"))

    def test_no_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match="is no local folder"):
            checkpoint.load_model(str(tmp_path / "nothing"))

    def test_no_tokenizer(self, small: PreTrainedModel, tmp_path: Path) -> None:
        folder = checkpoint.write(small, tmp_path / "bare")
        with pytest.raises(CheckpointError, match="bare has no tokenizer: copy"):
            checkpoint.load_tokenizer(str(folder))

    def test_damaged_tokenizer(self, saved: Path) -> None:
        tokenizer = json.loads((saved / "tokenizer.json").read_text())
        del tokenizer["model"]["vocab"]
        for content in ("{", json.dumps(tokenizer)):
            (saved / "tokenizer.json").write_text(content)
            with pytest.raises(CheckpointError, match="small is damaged"):
                checkpoint.load_tokenizer(str(saved))

    def test_weights_of_the_head_are_missing(self, tmp_path: Path) -> None:
        tiny_model("bert", "masked language model").save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"no weights for classifier.*fine-tune it"):
            checkpoint.load_model(str(tmp_path), "AutoModelForSequenceClassification")


def damage(file: Path, content: bytes | str | None) -> None:
    if content is None:
        file.unlink()
    elif content == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        config = json.loads(file.read_text())
        if content == "other sizes":
            config["intermediate_size"], config["hidden_size"] = 40, 64
        elif content == "no sizes":
            del config["quantization_config"]
        else:
            config["quantization_config"]["linears"] = {"encoder.layer.9.output.dense": [1, 1]}
        file.write_text(json.dumps(config))


class TestWriting:
    """A failed save leaves nothing half-written, and what was there before."""

    def test_an_existing_folder_is_kept_unless_told(self, small: PreTrainedModel, saved: Path) -> None:
        with pytest.raises(CheckpointError, match=r"small exists: choose another folder, or allow `overwrite=True`"):
            checkpoint.write(small, saved)
        checkpoint.write(small, saved, overwrite=True)
        assert read_manifest(saved) == {}
        assert [file.name for file in saved.parent.iterdir()] == ["small"]

    def test_something_else_is_never_replaced(self, small: PreTrainedModel, tmp_path: Path) -> None:
        (tmp_path / "papers").mkdir()
        (tmp_path / "papers" / "thesis.tex").write_text("all of it")
        (tmp_path / "file").write_text("x")
        for name in ("papers", "file"):
            with pytest.raises(CheckpointError, match="is not a checkpoint folder: it is not replaced"):
                checkpoint.write(small, tmp_path / name, overwrite=True)
        assert (tmp_path / "papers" / "thesis.tex").read_text() == "all of it"

    def test_an_empty_folder_can_be_replaced(self, small: PreTrainedModel, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        assert (checkpoint.write(small, tmp_path / "out", overwrite=True) / "config.json").exists()

    def test_a_full_disk(self, small: PreTrainedModel, tmp_path: Path) -> None:
        with largest_file(20_000), pytest.raises(CheckpointError, match=r"cannot write .*out: .*free some space"):
            checkpoint.write(small, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_leaves_what_was_there(
        self, small: PreTrainedModel, saved: Path, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        before = {file.name: file.read_bytes() for file in saved.iterdir()}
        with largest_file(20_000), pytest.raises(CheckpointError):
            checkpoint.write(small, saved, tokenizer=tokenizer, overwrite=True)
        assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
        assert [file.name for file in saved.parent.iterdir()] == ["small"]

    def test_a_parent_that_is_no_folder(self, small: PreTrainedModel, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(CheckpointError, match="file"):
            checkpoint.write(small, tmp_path / "file" / "out")
        assert (tmp_path / "file").read_text() == "x"

    def test_a_failed_last_step_brings_the_old_folder_back(
        self, small: PreTrainedModel, saved: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = {file.name: file.read_bytes() for file in saved.iterdir()}
        rename = Path.rename

        def fail_for_new(self: Path, target: Path) -> Path:
            if self.name == "new":
                raise OSError("the disk is gone")
            return rename(self, target)

        monkeypatch.setattr(folders, "_exchanged", lambda *_: False)  # a system that cannot
        monkeypatch.setattr(Path, "rename", fail_for_new)
        with pytest.raises(CheckpointError, match="the disk is gone"):
            checkpoint.write(small, saved, overwrite=True)
        assert {file.name: file.read_bytes() for file in saved.iterdir()} == before

    def test_a_model_that_does_not_read_back_is_not_written(self, small: PreTrainedModel, tmp_path: Path) -> None:
        small.config.quantization_config.linears.popitem()
        with pytest.raises(CheckpointError, match=r"does not read back|reads back with another"):
            checkpoint.write(small, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within the context a write beyond this many bytes of a file fails as on a full disk (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_sentence_transformers_loads_it(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.models")
    dense = tiny_model("bert", "encoder", vocab_size=len(tokenizer))
    checkpoint.write(dense, tmp_path / "bert", tokenizer=tokenizer)
    transformer = modules.Transformer(str(tmp_path / "bert"))
    pooling = modules.Pooling(dense.config.hidden_size)
    sentence_transformers.SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(tmp_path / "st"))

    model, own_tokenizer = checkpoint.load_model(str(tmp_path / "st")), checkpoint.load_tokenizer(str(tmp_path / "st"))
    structure = read_structure(model)
    cut(structure, random_masks(structure))
    files = sentence_transformers_files(str(tmp_path / "st"))
    checkpoint.write(model, tmp_path / "small", tokenizer=own_tokenizer, extra_files=files)

    encoder = sentence_transformers.SentenceTransformer(str(tmp_path / "small"), device="cpu")
    batch = own_tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    expected = (hidden * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(torch.tensor(encoder.encode(TEXTS)), expected, atol=1e-5, rtol=0)


def test_counts_and_truth_values_are_stored_as_they_are(small: PreTrainedModel, tmp_path: Path) -> None:
    small.register_buffer("num_batches_tracked", torch.tensor(100_003))
    small.register_buffer("seen", torch.tensor([True, False]))
    sizes, file = stored_tensors(small, torch.float16), tmp_path / "file"
    assert sizes["num_batches_tracked"].dtype is torch.int64
    assert sizes["seen"].dtype is torch.bool
    save_file(
        {name: torch.zeros(values.shape, dtype=values.dtype) for name, values in sizes.items()}, file, {"format": "pt"}
    )
    assert file.stat().st_size == file_bytes(sizes)
    written = checkpoint._converted(small, torch.float16)
    assert int(written["num_batches_tracked"]) == 100_003
    assert written["seen"].tolist() == [True, False]
    assert all(values.dtype is torch.float16 for values in written.values() if values.is_floating_point())
