"""What cannot be is refused with a line that says why, for wrong arguments and models that no other test comes by."""

from __future__ import annotations

import errno
import json
import runpy
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import processors
from torch import nn

import trimformer
from commands import Run, assert_mistake
from conftest import TinyBert, build_tokenizer
from tiny_models import tiny_model
from trimformer import Budget, plugins
from trimformer.cli import app, steps
from trimformer.cli.unfinished import ASKED, Unfinished
from trimformer.data.batches import sample_rows
from trimformer.data.columns import all_texts
from trimformer.data.encoding import encode_texts
from trimformer.data.files import read_rows
from trimformer.data.labels import labels_of, tags_of
from trimformer.errors import CheckpointError, DataError, InvalidOption, LabelError, TrimformerError, UnsupportedModel
from trimformer.model import folders, trimformer_checks
from trimformer.model.claims import claimed
from trimformer.model.depth import check_depth
from trimformer.model.gating import check_gates
from trimformer.model.refusals import check_kind, check_use
from trimformer.model.structure import read_structure
from trimformer.observing.measurements import from_tensors
from trimformer.observing.predictions import Predictions, predictions
from trimformer.pruning.method_options import make_plugin
from trimformer.pruning.sizes import Sizes
from trimformer.recipes.dynabert import DynaBERT
from trimformer.report import characters, frontier, page
from trimformer.training.distillation import soft_loss
from trimformer.training.recipe import check_budgets
from trimformer.vocabulary import named_tokens, proof
from trimformer.vocabulary.arguments import checked_rows

DYNABERT = make_plugin("recipes", "dynabert", {})
ROWS = [{"input_ids": [2, 7, 3]}]
REFUSED: dict[str, tuple[Callable[[], Any], type[TrimformerError], str]] = {
    "no prediction at all": (
        lambda: make_plugin("methods", "kprune", {"lambda_pred": 0, "lambda_rep": 0}),
        InvalidOption,
        "both 0: nothing would be measured",
    ),
    "solving without biases": (
        lambda: make_plugin("methods", "flap", {"tune": True, "compensate": False}),
        InvalidOption,
        "leave out `compensate=false`",
    ),
    "no whole model": (
        lambda: make_plugin("recipes", "dynabert", {"widths": "0.75,0.5"}),
        InvalidOption,
        "`widths='0.75,0.5'` must have 1 among them",
    ),
    "shares that are no text": (lambda: DynaBERT(widths=1), InvalidOption, "`widths=1` must be a text of shares"),
    "a budget that is measured": (
        lambda: check_budgets("dynabert", DYNABERT, [Budget(latency=0.5)]),
        InvalidOption,
        "dynabert takes budgets of flops",
    ),
    "a uniform budget": (
        lambda: check_budgets("dynabert", DYNABERT, [Budget(flops=0.5, uniform=True)]),
        InvalidOption,
        "leave out `round_to` and `uniform`",
    ),
    "an amount for a share": (
        lambda: Budget(size="50MB").keep_fraction,
        InvalidOption,
        "which share `size=50MB` is depends on the model",
    ),
    "uniform text": (lambda: Sizes(uniform="yes"), InvalidOption, "`uniform='yes'` must be true or false"),
    "rows of nobody": (lambda: checked_rows(3), InvalidOption, "`encoded_rows=3` must be rows of token ids"),
    "no rows": (lambda: sample_rows([], 1, 0), DataError, "the data is empty"),
    "a text without tokens": (
        lambda: encode_texts([["cat", ""]], without_specials()),
        DataError,
        "row 2 has no tokens",
    ),
    "an unlabelled row": (
        lambda: labels_of(Dataset.from_dict({"label": [1, None]}), "label"),
        DataError,
        "row 2: 'label' is null",
    ),
    "a sweep of nothing": (lambda: page.sweep_page([]), DataError, "a sweep without any size"),
    "FFNs in chunks": (
        lambda: check_use(in_chunks(), plugins.load("architectures", "bert")),
        UnsupportedModel,
        "chunk_size_feed_forward is set",
    ),
    "layers that share weights": (
        lambda: check_gates(read_structure(tiny_model("albert"))),
        UnsupportedModel,
        "runs blocks several times",
    ),
    "a table without text": (lambda: all_texts(Dataset.from_dict({"n": [1]})), DataError, "no column with text.*'n'"),
    "a journal that is none": (
        lambda: trimformer.Pruner(tiny_model("bert"), ROWS, journal="here"),
        InvalidOption,
        "`journal='here'` must be a Journal",
    ),
    "texts without labels": (
        lambda: trimformer.Pruner(tiny_model("bert"), ["cat"] * 9, method="mask_tuning", tokenizer=build_tokenizer()),
        LabelError,
        "texts come without labels",
    ),
    "a column without labels": (
        lambda: trimformer.Pruner(
            tiny_model("bert"),
            Dataset.from_dict({"text": ["cat"] * 9}),
            method="mask_tuning",
            tokenizer=build_tokenizer(),
        ),
        LabelError,
        "a text column comes without labels",
    ),
    "an output of another kind": (
        lambda: predictions(torch.ones(2), {}, tiny_model("bert")),
        UnsupportedModel,
        "returns a Tensor: it must return a transformers ModelOutput",
    ),
    "an output without predictions": (
        lambda: predictions({"pooled": 1}, {"attention_mask": torch.ones(1, 2)}, tiny_model("bert")),
        UnsupportedModel,
        r"cannot compare outputs with \['pooled'\]",
    ),
} | {
    f"{task} without data": (
        lambda task=task: plugins.load("tasks", task).rows(None, "train"),
        DataError,
        f"the {task} task has no rows of its own",
    )
    for task in (
        "embedding",
        "last_word",
        "likelihood_choice",
        "multiple_choice",
        "question_answering",
        "reranking",
        "token_classification",
    )
}


def without_specials() -> Any:
    """A tokenizer that puts nothing around a text."""
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1")
    return tokenizer


def in_chunks() -> Any:
    """A model that computes its FFNs piece by piece."""
    model = tiny_model("bert")
    model.config.chunk_size_feed_forward = 4
    return model


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(case: str) -> None:
    wrong, kind, said = REFUSED[case]
    with pytest.raises(kind, match=said):
        wrong()


@pytest.mark.parametrize(
    ("architecture", "config", "said"),
    [
        ("albert", transformers.AlbertConfig(num_hidden_groups=2), "layers share one set of weights"),
        ("big_bird", transformers.BigBirdConfig(), "attention_type='original_full'"),
        ("deberta-v2", transformers.DebertaV2Config(conv_kernel_size=3), "a convolution beside its first layer"),
        ("cohere", transformers.CohereConfig(use_qk_norm=True), "use_qk_norm"),
        ("stablelm", transformers.StableLmConfig(qk_layernorm=True), "qk_layernorm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_variant_that_cannot_be_cut(architecture: str, config: Any, said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        plugins.load("architectures", architecture)(config)


def test_variants_without_norms_of_heads_can_be_cut() -> None:
    cohere = plugins.load("architectures", "cohere")(transformers.CohereConfig(use_qk_norm=False))
    assert cohere is plugins.load("architectures", "llama")(transformers.LlamaConfig())
    stablelm = plugins.load("architectures", "stablelm")(transformers.StableLmConfig(qk_layernorm=False))
    assert stablelm.chains[0].causal


@pytest.mark.parametrize(("task", "column"), [("question_answering", "question"), ("token_classification", "tokens")])
def test_a_tokenizer_that_does_not_tell_where_its_tokens_are(task: str, column: str) -> None:
    rows = Dataset.from_dict(
        {"question": ["q"], "context": ["c"]} if column == "question" else {"tokens": [["a"]], "tags": [["X"]]}
    )
    with pytest.raises(InvalidOption, match="ByT5Tokenizer does not tell where its tokens are"):
        plugins.load("tasks", task).encode(rows, transformers.ByT5Tokenizer())


def test_text_to_model_in_one_line_and_in_rows(tmp_path: Path) -> None:
    task = plugins.load("tasks", "language_modeling")
    (tmp_path / "one.txt").write_text("a line alone")
    with pytest.raises(DataError, match=r"one\.txt has one line: give a longer text"):
        task.rows(str(tmp_path / "one.txt"), "train")
    rows = [json.dumps({"text": f"line {number}"}) for number in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    parts = [task.rows(str(tmp_path / "rows.jsonl"), split)["text"] for split in ("train", "validation")]
    assert "".join("".join(part) for part in parts) == "".join(f"line {number}\n\n" for number in range(10))


def test_damage_after_a_blank_line_is_counted_right(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n\n{"text": ')
    with pytest.raises(DataError, match="line 3 is damaged"):
        read_rows(str(tmp_path / "rows.jsonl"), "train")


def test_numbers_are_distilled_by_their_distance() -> None:
    weights = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    teacher, student = (
        Predictions(torch.full((2, 2, 3), value), weights, "gaussian", token_axis=None) for value in (1.0, 3.0)
    )
    assert float(soft_loss(teacher, student)) == 3 * (3.0 - 1.0) ** 2


@dataclass(frozen=True)
class Energy:
    """A measurement."""

    energy: torch.Tensor


def test_a_measurement_that_no_field_has_room_for() -> None:
    with pytest.raises(ValueError, match=r"0\.ffn\.weather is no field of a"):
        from_tensors(Energy, {"0.ffn.weather": torch.ones(1)}, ["0.ffn"])


def test_a_model_with_adapters_is_asked_for_merged() -> None:
    class Adapted(nn.Module):
        def merge_and_unload(self) -> None:
            """Stand for that of peft."""

    with pytest.raises(UnsupportedModel, match="give what its merge_and_unload"):
        check_kind(Adapted())


@pytest.mark.parametrize("place", ["bert.encoder.layer", "bert.encoder.layer.0.intermediate.dense"])
def test_modules_of_another_kind_than_described(place: str, tiny_bert: TinyBert) -> None:
    model = tiny_bert()
    owner, _, name = place.rpartition(".")
    other = nn.Sequential(*model.bert.encoder.layer) if name == "layer" else nn.Conv1d(2, 2, 1)
    setattr(model.get_submodule(owner), name, other)
    with pytest.raises(UnsupportedModel, match=f"is a {type(other).__name__}, not a"):
        read_structure(model)


def test_a_config_with_another_number_of_blocks_than_there_are(tiny_bert: TinyBert) -> None:
    model = tiny_bert()
    check_depth(read_structure(model))
    model.config.num_hidden_layers = 7
    with pytest.raises(UnsupportedModel, match="does not say how many blocks it has"):
        check_depth(read_structure(model))


def test_labels_with_names_of_their_own() -> None:
    kind = ClassLabel(names=["no", "yes", "never"])
    rows = Dataset.from_dict({"label": [0, 1], "tags": [[0], [1]]}, Features({"label": kind, "tags": [kind]}))
    assert labels_of(rows, "label") == ("classes", ("no", "yes", "never"))
    assert tags_of(rows, "tags") == ("no", "yes", "never")
    numbers = Dataset.from_dict({"tags": [[3, 1], []]}, Features({"tags": [Value("int64")]}))
    assert tags_of(numbers, "tags") == ("0", "1", "2", "3")


def test_ids_in_the_config_of_generation_follow_their_tokens() -> None:
    config = SimpleNamespace(
        eos_token_id=[4, 7],
        pad_token_id=-1,
        forced_decoder_ids=[[1, 4], [2, None]],
        suppress_tokens=[4, 5],
        bad_words_ids=[[4, 7], [4, 5]],
        sequence_bias=[[[4], 0.5], [[5], 1.0]],
    )
    assert named_tokens.named(config) == {4, 7}
    named_tokens.renumber(config, {4: 0, 7: 1})
    assert vars(config) == {
        "eos_token_id": [0, 1],
        "pad_token_id": -1,
        "forced_decoder_ids": [[1, 0], [2, None]],
        "suppress_tokens": [0],
        "bad_words_ids": [[0, 1]],
        "sequence_bias": [[[0], 0.5]],
    }
    config.sequence_bias = {(4, 7): 2.0, (5,): 1.0}
    config.forced_decoder_ids = config.eos_token_id = config.suppress_tokens = config.bad_words_ids = None
    named_tokens.renumber(config, {4: 0, 7: 1})
    assert config.sequence_bias == {(0, 1): 2.0}


def test_no_texts_have_no_tokens() -> None:
    tokenizer = build_tokenizer()
    assert proof.encoded(tokenizer, []) == encode_texts([[]], tokenizer) == []


def test_an_earlier_sweep_is_kept(tmp_path: Path) -> None:
    (tmp_path / frontier.FACTS).touch()
    with pytest.raises(CheckpointError, match=f"{frontier.FACTS} exists"):
        frontier.check_no_sweep(tmp_path, overwrite=False)
    frontier.check_no_sweep(tmp_path, overwrite=True)


def test_only_what_cannot_be_encoded_is_replaced() -> None:
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", errors=characters.ERRORS)
    assert "é→".encode("ascii", errors=characters.ERRORS).isascii()


class TestManifest:
    def test_files_elsewhere_are_refused(self, tmp_path: Path) -> None:
        facts = trimformer_checks.with_digest({}, {"../x": "0"})
        (tmp_path / trimformer_checks.MANIFEST).write_text(json.dumps(facts))
        with pytest.raises(ValueError, match=r"lists '\.\./x', which is not in this folder"):
            trimformer_checks.listed_files(tmp_path)

    @pytest.mark.parametrize("text", ["{}", "[]", "{"])
    def test_one_without_digests_stays(self, text: str, tmp_path: Path) -> None:
        file = tmp_path / trimformer_checks.MANIFEST
        file.write_text(text)
        trimformer_checks.forget_files(tmp_path)
        assert file.read_text() == text


class TestProgram:
    def test_an_argument_that_is_not_utf_8(self, run: Run) -> None:
        assert_mistake(run("verify", "model\udcff"), "is not UTF-8: rename the file or folder")

    def test_a_path_that_is_too_long(self, run: Run) -> None:
        told = app._of_the_system(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300))
        assert told == f"{'x' * 60}… cannot be a path, it is too long: give a shorter one"
        assert app._of_the_system(OSError(errno.EIO, "Input/output error", "x")) is None

    def test_a_command_for_one_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InvalidOption, match="list works in one process"):
            app.app(["list"], standalone_mode=False)

    def test_python_runs_it(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["trimformer", "--version"])
        runpy.run_module("trimformer.__main__", run_name="imported")
        assert capsys.readouterr().out == ""
        with suppress(SystemExit):
            runpy.run_module("trimformer", run_name="__main__")
        assert capsys.readouterr().out.startswith("trimformer ")

    def test_models_that_are_too_many_to_compile(self, run: Run) -> None:
        result = run("latency", *map(str, range(40)), "--runtimes", "compile")
        assert_mistake(result, "compile takes at most", "models at once, not 40")

    def test_what_is_not_the_first_process_writes_and_says_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("trimformer.processes.is_first", lambda: False)
        run: Any = Unfinished(tmp_path / "out", {}, resume=False)
        nothing: Any = None
        run.begin()
        run.note_written(tmp_path)
        run.leave()
        run.done()
        frontier.write_sweep([], tmp_path)
        steps.save_pruned(nothing, "model", None, tmp_path / "out", overwrite=False)
        steps.push(tmp_path, "someone/model")
        steps.write_report("<p>", tmp_path / "page.html")
        assert list(tmp_path.iterdir()) == []
        assert "uploading" not in capsys.readouterr().err

    def test_without_a_home_nothing_is_kept(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(steps, "default_folder", lambda: None)
        assert steps.kept_measurements(None) is None
        assert "this user has no home" in capsys.readouterr().err


class TestUnfinished:
    def test_an_empty_folder_is_taken_over_and_one_of_others_is_not(self, tmp_path: Path) -> None:
        run = Unfinished(tmp_path / "out", {"seed": 1}, resume=False)
        run.folder.mkdir()
        run.begin()
        assert (run.folder / ASKED).exists()
        (run.folder / ASKED).rename(run.folder / "theirs.txt")
        with pytest.raises(CheckpointError, match="is no folder of an interrupted run"):
            run.begin()
        assert (run.folder / "theirs.txt").exists()

    def test_what_was_written_is_known_until_it_is_replaced(self, tmp_path: Path) -> None:
        target = tmp_path / "out" / "flops-0.5"
        target.mkdir(parents=True)
        manifest = target / trimformer_checks.MANIFEST
        manifest.write_text("{}")
        run = Unfinished(tmp_path / "out", {}, resume=True)
        run.begin()
        assert not run.has_written(target)
        run.note_written(target)
        assert run.has_written(target)
        assert not Unfinished(tmp_path / "out", {}, resume=False).has_written(target)
        manifest.write_text("[]")
        assert not run.has_written(target)


class TestOtherSystems:
    """What other systems and file systems answer, here as well."""

    @pytest.mark.parametrize(
        ("call", "error", "is_raised"),
        [
            ("open", PermissionError(errno.EACCES, "no"), True),
            ("fsync", OSError(errno.EINVAL, "keeps nothing"), False),
            ("fsync", OSError(errno.EIO, "broken"), True),
        ],
    )
    def test_a_file_goes_to_disk(
        self, call: str, error: OSError, is_raised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(*_: object) -> None:
            raise error

        file = tmp_path / "file"
        file.touch()
        with monkeypatch.context() as other:
            other.setattr(folders.os, call, failing)
            if is_raised:
                with pytest.raises(type(error)):
                    folders.to_disk(file)
            else:
                folders.to_disk(file)
            if call == "open":
                folders.to_disk(tmp_path)

    def test_folders_are_exchanged_where_no_call_does_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        out = tmp_path / "out"
        out.mkdir()
        monkeypatch.setattr(sys, "platform", "darwin")
        with folders.whole_folder(out) as new:
            new.mkdir()
            (new / "file").touch()
        assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]

    def test_a_lock_that_breaks_is_an_error_and_what_is_left_goes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with claimed(tmp_path / "out") as beside:
            (beside / "left").touch()
        assert not beside.exists()

        def failing(*_: object) -> None:
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr("fcntl.flock", failing)
        with pytest.raises(OSError, match="broken"), claimed(tmp_path / "out"):
            pass
