"""The command line does its job on a tiny model, and says a user's mistake in one line, before any work."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from commands import Run, assert_mistake, rows, write
from conftest import TinyBert
from tiny_models import SETTINGS
from trimformer import plugins
from trimformer.judging import evaluation
from trimformer.model import checkpoint
from trimformer.model.manifest import read_manifest
from trimformer.model.structure import parameter_count
from trimformer.pruning.pruner import Pruner

TOKENS = 150


@pytest.fixture
def model(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    return checkpoint.write(tiny_bert(num_labels=2), tmp_path / "dense", tokenizer=tokenizer)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", rows(60, seed=0))
    write(folder / "validation.jsonl", rows(12, seed=1))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "small"


def prune(model: Path, data: Path, out: Path, /, **changes: object) -> list[object]:
    """Arguments of a prune command; `changes` replace, add or (None) leave out an option."""
    given = {"task": "sst2", "data": data, "flops": 0.5, "method": "kprune", "calibration-tokens": TOKENS, "out": out}
    given |= {name.replace("_", "-"): value for name, value in changes.items()}
    options = [part for name, value in given.items() if value is not None for part in (f"--{name}", value)]
    return ["prune", model, *options]


class TestWorks:
    def test_prune_prints_tables_and_writes_a_smaller_model(self, run: Run, model: Path, data: Path, out: Path) -> None:
        result = run(*prune(model, data, out))
        assert result.code == 0, result.err
        said = [line for line in result.err.splitlines() if not line.endswith(" …")]
        assert all(line.startswith(("Warning: accuracy fell", "Warning: only 12 evaluation rows")) for line in said)
        for part in ("accuracy, 12 rows", "50.0% asked", "reached", "parameters, whole model", "latency", "block", "4"):
            assert part in result.out
        small = AutoModelForSequenceClassification.from_pretrained(out)
        assert parameter_count(small) < parameter_count(AutoModelForSequenceClassification.from_pretrained(model))
        manifest = json.loads((out / "trimformer.json").read_text())
        assert manifest["budget"]["reached"] <= 0.5
        assert manifest["source"] == f"…/{model.name}"

    def test_json_is_alone_on_stdout_and_is_the_manifest(self, run: Run, model: Path, data: Path, out: Path) -> None:
        result = run(*prune(model, data, out, flops=None, params=0.4, set="ridge=0.1"), "--json")
        assert result.code == 0, result.err
        facts = json.loads(result.out)
        assert facts.pop("out") == str(out)
        assert facts == read_manifest(out)
        assert facts["options"]["ridge"] == 0.1
        assert facts["budget"]["cost"] == "params"
        assert facts["already_pruned"] is False
        assert set(facts["metrics"]) == {"dense", "pruned"}

    @pytest.mark.parametrize("method", plugins.names("methods"))
    def test_every_method(self, run: Run, model: Path, data: Path, out: Path, method: str) -> None:
        settings = [f"--set={name}={value}" for name, value in SETTINGS.get(method, {}).items()]
        assert run(*prune(model, data, out, method=method, flops=0.8), *settings).code == 0
        assert json.loads((out / "trimformer.json").read_text())["method"] == method

    def test_a_pruned_model_is_pruned_again_and_told(self, run: Run, model: Path, data: Path, out: Path) -> None:
        assert run(*prune(model, data, out)).code == 0
        result = run(*prune(out, data, out.with_name("smaller")))
        assert result.code == 0, result.err
        assert "the model was pruned before" in " ".join(result.out.split())
        facts = json.loads(run(*prune(out, data, out.with_name("third")), "--json").out)
        assert facts["already_pruned"] is True

    def test_evaluate(self, run: Run, model: Path, data: Path) -> None:
        result = run("evaluate", model, "--task", "sst2", "--data", data)
        assert (result.code, result.err) == (0, "evaluating …\n")
        assert "accuracy" in result.out
        facts = json.loads(run("evaluate", model, "--task", "sst2", "--data", data, "--json").out)
        assert facts["metrics"]["accuracy"]["sample_size"] == 12

    def test_unlabelled_text(self, run: Run, model: Path, tmp_path: Path, out: Path) -> None:
        write(tmp_path / "rows.jsonl", [{"text": row["sentence"]} for row in rows(80, seed=3)])
        result = run(*prune(model, tmp_path / "rows.jsonl", out, task="text"), "--json")
        assert result.code == 0, result.err
        assert json.loads(result.out)["metrics"]["dense"]["agreement"]["value"] == 1
        same = run("evaluate", out, "--task", "text", "--data", tmp_path / "rows.jsonl", "--dense", model, "--json")
        assert json.loads(same.out)["metrics"] == json.loads(result.out)["metrics"]["pruned"]

    def test_list_names_every_plugin(self, run: Run) -> None:
        folders = ("methods", "tasks", "architectures", "costs")
        shown, listed = run("list"), json.loads(run("list", "--json").out)
        for folder in folders:
            assert list(listed[folder]) == plugins.names(folder)
            assert all(name in shown.out for name in plugins.names(folder))

    def test_overwrite(self, run: Run, model: Path, data: Path, out: Path) -> None:
        for _ in range(2):
            assert run(*prune(model, data, out, method="random"), "--overwrite").code == 0

    @pytest.mark.slow
    def test_python_m_trimformer(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "trimformer", "list", "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "kprune" in json.loads(done.stdout)["methods"]
        assert done.stderr == ""


class TestMistakes:
    """Each is found before the dense model is evaluated, and nothing is written."""

    @pytest.fixture(autouse=True)
    def nothing_is_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            pytest.fail("work was done before the mistake was found")

        plugins.provided("tasks")  # commands import them late: then they would keep what is put in place here
        monkeypatch.setattr(evaluation, "inference", fail)
        monkeypatch.setattr(Pruner, "prune", fail)

    @pytest.fixture(autouse=True)
    def nothing_is_written(self, out: Path, model: Path, data: Path) -> object:
        yield
        assert not out.exists()
        assert {path.name for path in out.parent.iterdir() if path.name.startswith(".")} == set()

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"task": "sst3"}, ["unknown task 'sst3'", "Did you mean 'sst2'", "mrpc"]),
            ({"method": "kprun"}, ["unknown method 'kprun'", "Did you mean 'kprune'", "magnitude"]),
            ({"set": "gama=1"}, ["unknown option of kprune 'gama'", "Did you mean 'gamma'", "lambda_rep"]),
            ({"set": "gamma=hot"}, ["--set gamma=hot must be a number"]),
            ({"set": "gamma=-1"}, ["--set gamma=-1", "above 0"]),
            ({"set": "ridge=nan"}, ["--set ridge=nan", "at least 0"]),
            ({"set": "tune=maybe"}, ["--set tune=maybe must be true or false"]),
            ({"set": "tune=1"}, ["--set tune=1 must be true or false"]),
            ({"set": "predictive=mse"}, ["--set predictive=mse must be one of kl, fisher"]),
            ({"set": "gamma"}, ["'gamma'", "name=value"]),
            ({"flops": 0}, ["--flops 0", "(0, 1]"]),
            ({"flops": 1.5}, ["--flops 1.5", "(0, 1]"]),
            ({"flops": -0.1}, ["--flops -0.1", "(0, 1]"]),
            ({"flops": "nan"}, ["--flops nan", "(0, 1]"]),
            ({"flops": None}, ["exactly one of --flops 0.4, --params 0.4"]),
            ({"params": 0.5}, ["exactly one of --flops 0.4, --params 0.4"]),
            ({"calibration_tokens": 100_000}, ["100000 calibration tokens asked", "--calibration-tokens"]),
            ({"calibration_tokens": -1}, ["--calibration-tokens -1 is out of range: it must be at least 1"]),
            ({"batch_size": 0}, ["--batch-size 0 is out of range: it must be at least 1"]),
            ({"dtype": "int4"}, ["--dtype int4 must be one of auto, float32"]),
            ({"max_length": 4}, ["--max-length 4", "8 to 64"]),
            ({"max_length": 65}, ["--max-length 65", "8 to 64"]),
            ({"data": "/no/such/place"}, ["/no/such/place", "check the path"]),
            ({"task": "text", "data": None}, ["--data"]),
            ({"task": "qqp"}, ["no column 'question1'"]),
            ({"task": "stsb"}, ["sentence1"]),
        ],
        ids=str,
    )
    def test_options(
        self, run: Run, model: Path, data: Path, out: Path, changes: dict[str, object], said: list[str]
    ) -> None:
        assert_mistake(run(*prune(model, data, out, **changes)), *said)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["prune"], ["Missing argument", "trimformer prune --help"]),
            (["prune", "x", "--task", "sst2"], ["Missing option '--out'"]),
            (["prune", "x", "--no-such"], ["No such option: --no-such"]),
            (["prune", "x", "--task", "sst2", "--out", "y", "--flops", "many"], ["--flops"]),
            (["prune", "x", "--task", "sst2", "--out", "y", "--calibration-tokens", "0"], ["--calibration-tokens"]),
            (["prune", "x", "--task", "sst2", "--out", "y", "--seed", "-1"], ["--seed"]),
            (["no-such"], ["No such command 'no-such'"]),
        ],
        ids=str,
    )
    def test_usage(self, run: Run, arguments: list[str], said: list[str]) -> None:
        assert_mistake(run(*arguments), *said)

    def test_no_calibration_rows(self, run: Run, model: Path, data: Path, out: Path) -> None:
        (data / "train.jsonl").write_text("")
        assert_mistake(run(*prune(model, data, out)), "no rows in", "train.jsonl")

    def test_calibration_rows_that_are_all_evaluation_rows(self, run: Run, model: Path, data: Path, out: Path) -> None:
        (data / "train.jsonl").write_bytes((data / "validation.jsonl").read_bytes())
        assert_mistake(run(*prune(model, data, out)), "no calibration rows", "kept apart")

    @pytest.mark.parametrize("label", [2, -1, None, "good", 0.5])
    def test_labels_out_of_range(self, run: Run, model: Path, data: Path, out: Path, label: object) -> None:
        bad = rows(12, seed=1)
        for row in bad:
            row["label"] = label
        write(data / "validation.jsonl", bad)
        assert_mistake(run(*prune(model, data, out)), str(data), "row 1: 'label' is", repr(label))

    def test_missing_columns(self, run: Run, model: Path, data: Path, out: Path) -> None:
        write(data / "train.jsonl", [{"words": "the cat", "label": 0}])
        assert_mistake(run(*prune(model, data, out)), "no column 'sentence'", "'words'")

    def test_damaged_rows(self, run: Run, model: Path, data: Path, out: Path) -> None:
        (data / "train.jsonl").write_text('{"sentence": "the cat", "label": 0}\n{"sentence')
        assert_mistake(run(*prune(model, data, out)), "train.jsonl", "line 2 is damaged")

    def test_damaged_checkpoint(self, run: Run, model: Path, data: Path, out: Path) -> None:
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:2000])
        assert_mistake(run(*prune(model, data, out)), "dense is damaged or incomplete")

    def test_not_a_checkpoint(self, run: Run, data: Path, out: Path) -> None:
        assert_mistake(run(*prune(data, data, out)), "data is not a checkpoint", "config.json")

    def test_neither_folder_nor_reachable_hub(
        self, run: Run, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert_mistake(run(*prune(Path("no/such-model"), data, out)), "no/such-model is no local folder")

    def test_another_number_of_labels(
        self, run: Run, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, data: Path, out: Path
    ) -> None:
        folder = checkpoint.write(tiny_bert(num_labels=3), data.with_name("three"), tokenizer=tokenizer)
        assert_mistake(run(*prune(folder, data, out)), "3 labels", "needs 2")

    def test_unsupported_architecture(self, run: Run, model: Path, data: Path, out: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"is_decoder": True}))
        assert_mistake(run(*prune(model, data, out)), "is_decoder", "only encoders")

    def test_nan_weights_name_the_site(
        self, run: Run, tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, data: Path, out: Path
    ) -> None:
        bad = tiny_bert(num_labels=2)
        with torch.no_grad():
            bad.bert.encoder.layer[1].attention.self.key.weight[3, 3] = float("nan")
        bad.save_pretrained(data.with_name("nan"))
        tokenizer.save_pretrained(data.with_name("nan"))
        assert_mistake(run(*prune(data.with_name("nan"), data, out)), "NaN", "site encoder.layer.1.attention")

    def test_evaluate_too(self, run: Run, model: Path, data: Path) -> None:
        assert_mistake(run("evaluate", model, "--task", "sst3", "--data", data), "unknown task 'sst3'")
        assert_mistake(run("evaluate", model, "--task", "text", "--data", data), "dense")
        assert_mistake(run("evaluate", data, "--task", "sst2", "--data", data), "is not a checkpoint")


def test_an_existing_output_folder_stays(run: Run, model: Path, data: Path, out: Path) -> None:
    out.mkdir()
    (out / "mine.txt").write_text("x")
    assert_mistake(run(*prune(model, data, out)), "small exists", "--overwrite")
    assert_mistake(run(*prune(model, data, out), "--overwrite"), "is not a checkpoint folder")
    assert [file.name for file in out.iterdir()] == ["mine.txt"]


def test_weights_in_half_precision(run: Run, model: Path, data: Path, out: Path) -> None:
    result = run(*prune(model, data, out), "--dtype", "bfloat16")
    assert result.code == 0, result.err
    assert checkpoint.stored_dtype(str(out)) is torch.bfloat16
    assert read_manifest(out)["dtype"] == "bfloat16"
    again = run("evaluate", out, "--task", "sst2", "--data", data, "--dtype", "auto", "--json")
    metrics = read_manifest(out)["metrics"]["pruned"]
    assert json.loads(again.out)["metrics"]["accuracy"]["value"] == metrics["accuracy"]["value"]


def test_a_model_spread_over_memory_and_disk(run: Run, model: Path, data: Path, out: Path) -> None:
    spread = ["--device-map", "auto", "--max-memory", "cpu=60KB"]
    result = run(*prune(model, data, out), "--method", "surgeon", *spread)
    assert result.code == 0, result.err
    assert AutoModelForSequenceClassification.from_pretrained(out).num_labels == 2
    refused = run(*prune(model, data, out), "--overwrite", "--method", "kprune", *spread)
    assert_mistake(refused, "--method surgeon, which takes them block by block")


def test_messages_are_printed_as_they_are(run: Run, model: Path, data: Path, out: Path) -> None:
    result = run(*prune(model, data, out, task="[bold]sst2[/nonsense]"))
    assert_mistake(result, "'[bold]sst2[/nonsense]'")


class TestUnexpected:
    """An error that nobody expected: a bug of ours."""

    @pytest.fixture(autouse=True)
    def a_bug(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def fail(_: object) -> None:
            # pragma: allowlist nextline secret
            raise ZeroDivisionError("https://me:secret@host has nothing")

        monkeypatch.setattr(plugins, "descriptions", fail)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.delenv("TRIMFORMER_TRACE", raising=False)

    def test_is_one_line_and_a_file_with_the_trace(self, run: Run, tmp_path: Path) -> None:
        result = run("list", "--json")
        (trace,) = tmp_path.glob("trimformer-*.txt")
        assert (result.code, result.out) == (1, "")
        (line,) = result.err.splitlines()
        assert line.startswith("Error: unexpected ZeroDivisionError: https://…@host has nothing.")
        assert "please report it" in line
        assert str(trace) in line
        told = trace.read_text()
        assert told.startswith("trimformer list --json\ntrimformer 0")
        assert "Traceback" in told
        assert "commands/listing.py" in told
        assert told.endswith("ZeroDivisionError: https://…@host has nothing\n")
        assert "secret" not in result.err + told

    def test_shows_its_traceback_to_developers(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRIMFORMER_TRACE", "1")
        with pytest.raises(ZeroDivisionError):
            run("list")


def test_warnings_are_said_once(run: Run, model: Path, data: Path, out: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(*prune(model, data, out, calibration_tokens=20))
    assert result.code == 0, result.err
    few = [line for line in result.err.splitlines() if "calibration tokens are few" in line]
    assert len(few) == 1
    assert few[0].startswith("Warning: ")


def in_a_fresh_process(code: str) -> str:
    """What Python prints when it runs some code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["prune", "--help"], ["prune", "--seed", "-1"]], ids=str
)
def test_help_does_not_wait_for_heavy_imports(arguments: list[str]) -> None:
    heavy = in_a_fresh_process(
        "import sys\n"
        "from trimformer.cli.app import main\n"
        "try:\n"
        f"    main({arguments})\n"
        "except SystemExit:\n"
        "    pass\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print('heavy:', *sorted(loaded & {'torch', 'transformers', 'datasets', 'numpy', 'matplotlib', 'scipy'}))"
    )
    assert heavy.endswith("heavy:\n")


def test_version(run: Run) -> None:
    assert run("--version") == (0, "trimformer 0.1.0\n", "")


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_with_130_in_one_line(
    run: Run, model: Path, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pruner, "prune", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    result = run(*prune(model, data, out))
    assert result.code == 130
    assert result.err.strip().splitlines()[-1] == "Error: interrupted"
    assert "Traceback" not in result.err
    assert not out.exists()


def test_sweep_writes_a_checkpoint_per_budget(run: Run, model: Path, data: Path, out: Path, tmp_path: Path) -> None:
    arguments = ["sweep", model, "--task", "sst2", "--data", data, "--flops", "0.8,0.4", "--out", out]
    arguments += ["--calibration-tokens", TOKENS, "--cache", tmp_path / "cache"]
    result = run(*arguments, "--json")
    assert result.code == 0, result.err
    assert [facts["budget"]["asked"] for facts in json.loads(result.out)] == [0.8, 0.4]
    for share in ("0.8", "0.4"):
        AutoModelForSequenceClassification.from_pretrained(out / f"flops-{share}")
    assert_mistake(run(*arguments), "flops-0.8 exists", "--overwrite")
    assert_mistake(run(*arguments, "--flops", "0.5,much"), "--flops 0.5,much must be shares with commas")


def plan(model: Path, data: Path, /, *further: object) -> list[object]:
    """Arguments of a plan command."""
    return ["plan", model, "--task", "sst2", "--data", data, "--calibration-tokens", TOKENS, *further]


WIDTH = 8
"""Of the model's heads."""


def test_a_plan_is_printed_edited_and_pruned_by(run: Run, model: Path, data: Path, out: Path, tmp_path: Path) -> None:
    file, page = tmp_path / "plan.json", tmp_path / "plan.html"
    result = run(*plan(model, data, "--flops", "0.2", "--out", file, "--report", page))
    assert result.code == 0, result.err
    assert max(map(len, result.out.splitlines()[:12])) <= 80
    assert "flops 0.2" in result.out
    assert "heads, dimensions and neurons that stay" in result.out
    assert "flops 0.2" in page.read_text()
    pruned = run(*prune(model, data, out, method="surgeon", flops=None, sites=file))
    assert pruned.code == 0, pruned.err
    kept = read_manifest(out)["units"]
    assert json.loads(file.read_text()) == {
        str(each["block"]): {
            "heads": f"{each['head']}x{each['dimension']}" if each["dimension"] < WIDTH else each["head"],
            "neurons": each["neuron"],
        }
        for each in kept
    }
    assert any(each["dimension"] < WIDTH for each in kept)
    said = json.loads(run(*plan(model, data, "--size", "70kB,0.9", "--json")).out)
    assert [each["asked"] for each in said["budgets"]] == ["0.9", "70kB"]
    assert said["budgets"][1]["bytes"] <= 70_000


@pytest.mark.parametrize(
    ("further", "said"),
    [
        (["--method", "kprune"], ["kprune has no removal curves", "plan with surgeon"]),
        (["--out", "plan.json"], ["a file of sizes is of one budget", "--flops 0.5"]),
        (["--flops", "0.5", "--out", "plan.txt"], ["plan.txt", "plan.json"]),
        (["--size", "40"], ["--size 40 is outside (0, 1]", "45MB"]),
        (["--size", "40M"], ["--size 40M must be a size with one of the units", "48MB"]),
        (["--size", "1kB"], ["a --size of 1.0 kB cannot be reached"]),
    ],
    ids=str,
)
def test_plans_that_cannot_be(run: Run, model: Path, data: Path, further: list[str], said: list[str]) -> None:
    assert_mistake(run(*plan(model, data, *further)), *said)


def test_the_size_of_the_file_is_a_budget(run: Run, model: Path, data: Path, out: Path) -> None:
    result = run(*prune(model, data, out, method="magnitude", flops=None, size="70kB"))
    assert result.code == 0, result.err
    assert 60_000 < (out / "model.safetensors").stat().st_size <= 70_000
    assert "file of the weights" in result.out
    assert "asked" in result.out
    assert "file of the weights" in (out / "README.md").read_text()
    assert_mistake(run(*prune(model, data, out, size="70kB")), "exactly one of", "--size 45MB")


def test_sizes_by_name_are_in_the_table_the_manifest_and_the_model(
    run: Run, model: Path, data: Path, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "sizes.json").write_text('{"1": {"neurons": "3-5"}}')
    asked = {"heads": "1-2", "sites": tmp_path / "sizes.json", "flops": None, "report": tmp_path / "report.html"}
    result = run(*prune(model, data, out, method="magnitude", **asked))
    assert result.code == 0, result.err
    said = " ".join(result.out.split())
    assert "heads in every layer 1-2 asked 2" in said
    assert "sizes by layer or sublayer 1 entry asked" in said
    manifest = read_manifest(out)
    assert manifest["sizes"] == {
        "asked": {"heads": "1-2", "sites": {"1": {"neurons": "3-5"}}},
        "dropped": [],
        "alone": True,
    }
    assert [(block["head"], block["neuron"]) for block in manifest["units"]] == [(2, 48), (2, 5)]
    assert "heads in every layer" in (tmp_path / "report.html").read_text()
    assert "| heads in every layer | 1-2 | 2 |" in (out / "README.md").read_text()


def test_sizes_go_with_a_budget_a_largest_loss_and_a_sweep(
    run: Run, model: Path, data: Path, out: Path, tmp_path: Path
) -> None:
    dropping = prune(model, data, out, method="magnitude", flops=None, max_drop=1, drop_blocks=1)
    result = run(*dropping, "--json")
    assert result.code == 0, result.err
    assert len(json.loads(result.out)["sizes"]["dropped"]) >= 2
    sweep = ["sweep", *prune(model, data, tmp_path / "sizes", method="magnitude", flops="0.8,0.6", keep_layers=1)[1:]]
    assert run(*sweep).code == 0
    for share in (0.8, 0.6):
        kept = read_manifest(tmp_path / "sizes" / f"flops-{share}")["units"][1]
        assert kept["head"] == kept["head_of"]
    far = ["sweep", *prune(model, data, tmp_path / "far", method="magnitude", flops="0.8,0.3", keep_layers=1)[1:]]
    assert_mistake(run(*far), "a share of 0.3 cannot be reached", "from 0.5000 to 1.0000")
    assert not (tmp_path / "far").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"heads": 9}, "--heads 9 is more than encoder.layer.0.attention has: layers 0 to 1 can have 0 to 4"),
        ({"heads": "x"}, "--heads x must be a number of units"),
        ({"neurons": "1,2,3"}, "--neurons has 3 entries, the model has 2 layers"),
        ({"keep_layers": "0-1", "drop_blocks": "1-1"}, "--keep-layers and --drop-blocks ask for"),
        ({"drop_blocks": 1, "method": "dual_cp"}, "dual_cp does not tell"),
        ({"sites": "missing.json"}, "missing.json cannot be read"),
        ({"only": "words"}, "--only words must be heads or neurons"),
        ({"keep_layers": "0"}, "nothing goes by these sizes alone"),
        ({"heads": 2, "round_to": 8}, "--round-to goes with a budget"),
        ({"heads": 2, "flops": 0.5, "params": 0.5}, "say how small"),
        ({"heads": 2, "neurons": 3, "max_drop": 0.1}, "leave out --max-drop"),
        ({"flops": 0.5, "metric": "f1"}, "--metric goes with a largest loss, such as --max-drop 0.01"),
        ({"max_drop": 0.1, "cost": "words"}, "unknown cost 'words'"),
    ],
)
def test_sizes_that_cannot_be(
    run: Run, model: Path, data: Path, out: Path, asked: dict[str, object], said: str
) -> None:
    assert_mistake(run(*prune(model, data, out, **{"flops": None, "method": "magnitude"} | asked)), said)
    assert not out.exists()


def test_uniform_sizes_are_asked_for_without_a_budget(run: Run, model: Path, data: Path, out: Path) -> None:
    asked = prune(model, data, out, method="magnitude", flops=None, neurons="2-9")
    assert_mistake(run(*asked, "--uniform", "--max-drop", "1"), "--uniform goes with --flops", "not with --max-drop")
    assert run(*asked, "--uniform").code == 0
    config = json.loads((out / "config.json").read_text())
    assert config["intermediate_size"] == 9
    assert "quantization_config" not in config


def test_max_drop_excludes_a_budget(run: Run, model: Path, data: Path, out: Path) -> None:
    assert_mistake(run(*prune(model, data, out, max_drop=0.1)), "exactly one of", "--max-drop")
    assert not out.exists()
