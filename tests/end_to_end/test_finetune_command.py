"""`trimformer finetune` and `pprune`: what they write and say, what they refuse, how they resume."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from commands import Run, assert_mistake, write
from conftest import WORDS, TinyBert
from trimformer.cli import finetune_run as training_run
from trimformer.model import checkpoint
from trimformer.model.manifest import read_manifest
from trimformer.model.structure import parameter_count

QUICK = ("--train", "per_device_train_batch_size=8", "--train", "learning_rate=1e-2", "--train", "num_train_epochs=2")


@pytest.fixture
def base(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """A pre-trained encoder without a head."""
    return checkpoint.write(tiny_bert(None), tmp_path / "base", tokenizer=tokenizer)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 64), ("validation", 40)):
        generator = random.Random(count)  # noqa: S311  # words for a test
        rows = []
        for index in range(count):
            words = [*generator.choices(WORDS.split()[:10], k=4), ("dog", "cat")[index % 2]]
            rows.append({"sentence": " ".join(words), "label": index % 2})
        write(folder / f"{name}.jsonl", rows)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def finetune(model: Path, data: Path, out: Path, *more: object) -> list[object]:
    return ["finetune", model, "--task", "sst2", "--data", data, "--out", out, *QUICK, *more]


def p_prune(model: Path, data: Path, out: Path, *more: object) -> list[object]:
    asked = ["--flops", 0.6, "--method", "dual_cp", "--calibration-tokens", 200]
    return ["pprune", model, "--task", "sst2", "--data", data, "--out", out, *asked, *QUICK, *more]


def test_finetune_writes_a_checkpoint_with_its_facts(run: Run, base: Path, data: Path, out: Path) -> None:
    result = run(*finetune(base, data, out))
    assert result.code == 0, result.err
    assert "accuracy, 40 rows" in result.out
    assert result.err.index("gets a new head for sst2: classifier.bias, classifier.weight start") < result.err.index(
        "fine-tuning"
    )
    facts = json.loads((out / "trimformer.json").read_text())
    assert facts["metrics"]["finetuned"]["accuracy"]["value"] > 0.9
    assert facts["finetuning"]["new_head"] == ["classifier.bias", "classifier.weight"]
    assert (facts["source"], facts["task"], facts["data"]) == ("…/base", "sst2", "…/data")
    assert AutoModelForSequenceClassification.from_pretrained(out).config.label2id == {"negative": 0, "positive": 1}
    assert not out.with_name("out.unfinished").exists()


def test_a_model_without_the_rows_head_is_told_so(run: Run, base: Path, data: Path) -> None:
    """The rows have labels; what is missing is a head for them, and a way to get one."""
    result = run("plan", base, "--data", data, "--flops", 0.5, "--calibration-tokens", 60)
    assert result.code == 0, result.err
    assert "task: text, although the rows have labels (classification): " in result.err
    assert "no labels were found" not in result.err
    assert "`trimformer finetune`" in " ".join(result.err.split())


@pytest.mark.slow
def test_pprune_and_finetune_again(run: Run, base: Path, data: Path, out: Path) -> None:
    result = run(*p_prune(base, data, out, "--json", "--dense-too"))
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert facts.pop("out") == str(out)
    assert facts == read_manifest(out)
    assert facts["budget"]["reached"] <= 0.6
    assert facts["metrics"]["pruned"]["accuracy"]["value"] > 0.8
    assert set(facts["metrics"]["dense"]) == set(facts["metrics"]["pruned"])
    tuning = facts["finetuning"]
    assert tuning["dense"]["steps"] == tuning["steps"] == 12
    assert all(
        seconds > 0 for seconds in (tuning["seconds"], tuning["dense"]["seconds"], tuning["step"]["dense"]["median_ms"])
    )
    small = AutoModelForSequenceClassification.from_pretrained(out)
    again = run(*finetune(out, data, out.with_name("again"), "--train", "patience=0", "--dense", base))
    assert again.code == 0, again.err
    for part in ("training step", "pruning and fine-tuning", "block"):
        assert part in again.out
    twice = AutoModelForSequenceClassification.from_pretrained(out.with_name("again"))
    assert parameter_count(twice) == parameter_count(small)
    assert json.loads((out.with_name("again") / "trimformer.json").read_text())["finetuning"]["before"]


@pytest.mark.slow
class TestInterrupted:
    """Ctrl-C while the result is saved, after pruning and training."""

    @pytest.fixture
    def interrupted(self, run: Run, base: Path, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        command = p_prune(base, data, out)
        with monkeypatch.context() as patch:
            patch.setattr(training_run, "save_finetuned", interrupt)
            result = run(*command)
        assert result.code == 130
        assert "--resume" in result.err
        assert not out.exists()
        return command

    def test_is_neither_overwritten_nor_taken_for_another_and_is_resumed(
        self, run: Run, out: Path, interrupted: list[object]
    ) -> None:
        assert_mistake(run(*interrupted), "out.unfinished holds an interrupted run", "--resume")
        changed = [0.5 if part == 0.6 else part for part in interrupted]
        assert_mistake(run(*changed, "--resume"), "the interrupted run has pruning", "0.6")
        result = run(*interrupted, "--resume")
        assert result.code == 0, result.err
        assert "clustering" not in result.err
        tuning = json.loads((out / "trimformer.json").read_text())["finetuning"]
        assert tuning["resumed_at_step"] == tuning["steps"] == 12
        assert not out.with_name("out.unfinished").exists()


class TestMistakes:
    @pytest.fixture(autouse=True)
    def nothing_is_left(self, out: Path) -> object:
        yield
        assert not out.exists()
        assert not out.with_name("out.unfinished").exists()

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--train", "learning_rat=1"], ["unknown training argument 'learning_rat'", "'learning_rate'"]),
            (["--train", "learning_rate"], ["--train 'learning_rate' must be name=value"]),
            (["--train", "learning_rate=-1"], ["--train learning_rate=-1", "above 0"]),
            (["--train", "learning_rate=fast"], ["--train learning_rate=fast must be a number"]),
            (["--train", "rows=0"], ["--train rows=0", "at least 1"]),
            (["--train", "output_dir=x"], ["output_dir", "cannot be set", "(--out)"]),
            (["--dense-too"], ["--dense-too needs", "as --dense"]),
            (["--task", "sst3"], ["unknown task 'sst3'", "'sst2'"]),
            (["--device", "gpu7"], ["no device 'gpu7'"]),
        ],
    )
    def test_options(self, run: Run, base: Path, data: Path, out: Path, more: list[str], said: list[str]) -> None:
        assert_mistake(run(*finetune(base, data, out, *more)), *said)

    def test_labels_missing(self, run: Run, base: Path, data: Path, out: Path) -> None:
        train = data / "train.jsonl"
        train.write_text("".join(json.dumps({"sentence": line}) + "\n" for line in WORDS.split()))
        assert_mistake(run(*finetune(base, data, out)), "label")

    def test_labels_missing_where_pruning_comes_first(self, run: Run, base: Path, data: Path, out: Path) -> None:
        write(data / "train.jsonl", [{"sentence": f"{line} cat"} for line in WORDS.split()])
        result = run(*p_prune(base, data, out))
        assert_mistake(result, "label")
        assert "clustering" not in result.err

    def test_no_size(self, run: Run, base: Path, data: Path, out: Path) -> None:
        wrong = [part for part in p_prune(base, data, out) if part not in ("--flops", 0.6)]
        assert_mistake(run(*wrong), "exactly one of --flops 0.4, --params 0.4, --latency 0.5")

    def test_a_method_that_needs_labels(self, run: Run, base: Path, data: Path, out: Path) -> None:
        wrong = ["mask_tuning" if part == "dual_cp" else part for part in p_prune(base, data, out)]
        assert_mistake(run(*wrong), "mask_tuning needs labels")


def test_an_existing_folder_is_not_replaced(run: Run, base: Path, data: Path, out: Path) -> None:
    out.mkdir()
    assert_mistake(run(*finetune(base, data, out)), "exists", "--overwrite")
    assert_mistake(run(*finetune(base, data, base, "--overwrite")), "never replaced")
