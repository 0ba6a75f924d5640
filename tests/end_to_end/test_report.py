"""Reports and model cards of results that the command line made on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from commands import execute
from conftest import WORDS, TinyBert
from hub_stand_in import hub
from trimformer.judging.manifest import Manifest
from trimformer.model import checkpoint
from trimformer.report import page as report
from trimformer.report.headline import faster, headline

Prune = Callable[..., int]


@pytest.fixture
def prune(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Prune:
    """Runs `trimformer COMMAND` on a tiny model and its rows, with further arguments, and gives the exit code."""
    model = checkpoint.write(tiny_bert(num_labels=2), tmp_path / "dense", tokenizer=tokenizer)
    words = WORDS.split()
    for split, count in (("train", 60), ("validation", 12)):
        rows = [
            {"sentence": " ".join(words[row % 7 : row % 7 + 3 + row % 9]), "label": row % 2} for row in range(count)
        ]
        rows = [row | {"sentence": f"{row['sentence']} {words[-1 - index % 20]}"} for index, row in enumerate(rows)]
        file = tmp_path / f"{split}.jsonl"
        file.write_text("".join(json.dumps(row | {"sentence": f"{split[0]} {row['sentence']}"}) + "\n" for row in rows))

    def run(command: str, *arguments: object) -> int:
        given = [command, model, "--task", "sst2", "--data", tmp_path, "--calibration-tokens", 100, *arguments]
        return execute(*given)

    return run


def test_prune_tells_everything_in_its_manifest_page_and_card(
    prune: Prune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "small", tmp_path / "pages" / "small.html"
    assert prune("prune", "--flops", 0.5, "--out", out, "--report", page) == 0
    facts = json.loads((out / "trimformer.json").read_text())
    assert facts["command"].startswith("trimformer prune ")
    assert facts["command"].endswith(f"--flops 0.5 --out …/{out.name} --report …/{page.name}")
    assert facts["model_class"] == "BertForSequenceClassification"
    assert set(facts["seconds"]) == set(facts["memory_mb"]) == {"ordering", "measuring", "pruning", "judging"}
    assert all(memory["host"] > 100 for memory in facts["memory_mb"].values())
    kept = {f"encoder.layer.{row['block']}.attention": row["head"] for row in facts["units"]}
    assert {site: pattern.count("#") for site, pattern in facts["patterns"].items() if "attention" in site} == kept
    assert set(facts["curves"]) == {
        f"encoder.layer.{block}.{part}" for block in (0, 1) for part in ("attention", "ffn")
    }
    assert all(curve == sorted(curve) and curve[0] == 0 for curve in facts["curves"].values())
    assert page.read_text() == report.from_folder(out)
    card = (out / "README.md").read_text()
    assert facts["command"] in card
    dense, pruned = (facts["latency"][name]["median_ms"] for name in ("dense", "pruned"))
    first_line = headline(Manifest.from_json(facts))
    assert first_line.startswith(faster(dense / pruned))
    assert "accuracy 0." in first_line
    printed = capsys.readouterr().out
    assert printed.startswith(first_line)
    assert all(first_line in text for text in (page.read_text(), card))
    assert f'model = pipeline("text-classification", "{out}", trust_remote_code=True)' in printed


def test_sweep_writes_a_page_that_can_be_made_again(prune: Prune, tmp_path: Path) -> None:
    out, page, again = tmp_path / "sizes", tmp_path / "sweep.html", tmp_path / "again.html"
    assert prune("sweep", "--flops", "0.8,0.4", "--out", out, "--report", page) == 0
    assert execute("report", out, "--out", again) == 0
    assert again.read_text() == page.read_text()
    assert "2 sizes" in page.read_text()
    assert execute("report", out / "flops-0.4", "--out", again) == 2
    assert execute("report", out / "flops-0.4", "--out", again, "--overwrite") == 0
    assert "2 sizes" not in again.read_text()


@pytest.mark.parametrize("method", ["kprune", "random"])
def test_methods_without_curves_have_pages_too(prune: Prune, tmp_path: Path, method: str) -> None:
    page = tmp_path / "page.html"
    assert prune("prune", "--flops", 0.5, "--method", method, "--out", tmp_path / "small", "--report", page) == 0
    assert "Removal curves" not in page.read_text()


def test_a_page_that_exists_stops_before_any_work(
    prune: Prune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert prune("prune", "--flops", 0.5, "--out", tmp_path / "small", "--report", page) == 2
    assert "page.html exists" in " ".join(capsys.readouterr().err.split())
    assert page.read_text() == "mine"
    assert not (tmp_path / "small").exists()


def test_a_folder_without_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute("report", tmp_path, "--out", tmp_path / "page.html") == 2
    assert "neither trimformer.json nor frontier.json" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "page.html").exists()


def test_push_uploads_what_was_saved(prune: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "small"
    with hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 20)
        assert prune("prune", "--flops", 0.5, "--out", out, "--push-to-hub", "me/small") == 0
        assert server.files == {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}
        assert "README.md" in server.files
        server.refuses = True
        assert prune("prune", "--flops", 0.5, "--out", tmp_path / "two", "--push-to-hub", "me/small") == 2
    assert checkpoint.load_model(str(tmp_path / "two")) is not None


def test_push_without_login_stops_before_any_work(
    prune: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert prune("prune", "--flops", 0.5, "--out", tmp_path / "small", "--push-to-hub", "me/small") == 2
    assert "hf auth login" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "small").exists()


def test_compare_writes_a_page(prune: Prune, tmp_path: Path) -> None:
    assert prune is not None  # it made the model and its rows
    plan, page = tmp_path / "plan.yaml", tmp_path / "compare.html"
    plan.write_text(
        f"tasks:\n  one: {{task: sst2, model: {tmp_path / 'dense'}, data: {tmp_path}}}\n"
        "methods:\n  magnitude:\n  random:\nbudgets: [0.7, 0.4]\ncalibration_tokens: 100\n"
    )
    arguments = ("compare", plan, "--out", tmp_path / "results", "--report", page)
    assert execute(*arguments) == 0
    assert "2 methods, 2 sizes, 1 task, 1 seed: 4 runs." in page.read_text()
    assert execute(*arguments) == 2
    assert execute(*arguments, "--show", "--overwrite") == 0
