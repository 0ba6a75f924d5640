"""Names that are markup, code or control characters, everywhere a name can be; and what is shared of names of files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from commands import Run, rows, write
from trimformer.errors import CheckpointError
from trimformer.judging.names import own_name, shared_name, shared_text
from trimformer.model import checkpoint
from trimformer.model.sentence_files import sentence_transformers_files
from trimformer.report.characters import STEERING
from trimformer.report.markdown import escaped, message

EVIL = "e[red]|`<script>alert(1)<x>[a](b)\x1b[31m\u202e\n---\n# x"
FILES = EVIL.replace("/", "")


def world(tiny_bert, tokenizer, folder: Path) -> None:
    """A model and rows whose names are hostile: folder, classes, column."""
    model = tiny_bert(num_labels=2)
    model.config.id2label = {0: EVIL, 1: f"{EVIL}2"}
    model.config.label2id = {name: number for number, name in model.config.id2label.items()}
    checkpoint.write(model, folder / FILES, tokenizer=tokenizer)
    (folder / f"{FILES} rows").mkdir()
    for split, seed in (("train", 0), ("validation", 1)):
        given = [{EVIL: row["sentence"], "label": (EVIL, f"{EVIL}2")[row["label"]]} for row in rows(40, seed=seed)]
        write(folder / f"{FILES} rows" / f"{split}.jsonl", given)


def assert_harmless(text: str) -> None:
    assert not STEERING.search(text), ascii(text)


class TestEverywhere:
    def test_a_model_its_card_and_its_page(self, tiny_bert, tokenizer, tmp_path, monkeypatch, run: Run) -> None:
        world(tiny_bert, tokenizer, tmp_path)
        monkeypatch.chdir(tmp_path)
        ended = run(
            *("prune", FILES, "--task", "classification", "--data", f"{FILES} rows", "--column", f"text={EVIL}"),
            *("--flops", "0.5", "--calibration-tokens", "150", "--method", "random", "--max-length", "32"),
            *("--out", f"{FILES} out", "--report", "page.html"),
        )
        assert ended.code == 0, ended
        assert_harmless(ended.out)
        assert_harmless(ended.err)
        assert "[red]" in ended.out
        card = (tmp_path / f"{FILES} out" / "README.md").read_text()
        assert_harmless(card)
        _, header, body = card.split("---\n", 2)
        assert yaml.safe_load(header)["library_name"] == "transformers"
        assert "# x" not in body.splitlines()
        blocks = "".join(part for number, part in enumerate(body.split("\n```")) if number % 2 == 0)
        outside = "".join(part for number, part in enumerate(blocks.replace("\\`", "").split("`")) if number % 2 == 0)
        assert "<script>" not in outside.replace("\\<script", "")
        page = (tmp_path / "page.html").read_text()
        assert_harmless(page)
        assert "<script>alert(1)" not in page

    def test_errors_and_their_values(self, tiny_bert, tokenizer, tmp_path, monkeypatch, run: Run) -> None:
        world(tiny_bert, tokenizer, tmp_path)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "plan.yaml").write_text(json.dumps({EVIL: 1}))
        for words in (
            ("evaluate", FILES, "--task", EVIL, "--data", f"{FILES} rows"),
            ("evaluate", FILES, "--task", "classification", "--data", f"./{FILES} gone"),
            ("evaluate", FILES, "--task", "classification", "--data", f"{FILES} rows", "--column", f"text={EVIL}x"),
            ("compare", "plan.yaml", "--out", "out"),
        ):
            ended = run(*words)
            assert ended.code == 2, ended
            assert len(ended.err.splitlines()) == 1, ended.err
            assert_harmless(ended.err)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1.98× faster, accuracy 0.88 → 0.87 ± 0.02 (n=872)", "1.98× faster, accuracy 0.88 → 0.87 ± 0.02 (n=872)"),
        ("exact_match [0.2, 0.7]", "exact_match [0.2, 0.7]"),
        ("# a", "\\# a"),
        ("--- b", "\\--- b"),
        ("1. c", "\\1. c"),
        ("a|b", "a\\|b"),
        ("![x](http://y)", "\\![x]\\(http:\\//y)"),
        ("*x* _y_ ~~z~~", "\\*x\\* \\_y\\_ \\~\\~z\\~\\~"),
        ("R&D &lt;", "R&amp;D &amp;lt;"),
        ("two\nlines", "two lines"),
    ],
)
def test_text_in_markdown(text: str, written: str) -> None:
    assert escaped(text) == written


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("try `flops=0.5`, or `a|b`", "try `flops=0.5`, or `a/b`"),
        ("`rows=5` of *x*", "`rows=5` of \\*x\\*"),
        ("# of `a", "\\# of \\`a"),
        ("a ` ` b", "a \\` \\` b"),
        ("[a`b`](http://y)", "[a`b`]\\(http:\\//y)"),
    ],
)
def test_a_message_in_markdown(said: str, written: str) -> None:
    assert message(said) == written


def test_what_is_shared_says_neither_who_nor_where(
    tiny_bert, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    place = tmp_path / "home" / "somebody"
    checkpoint.write(tiny_bert(num_labels=2), place / "model", tokenizer=tokenizer)
    (place / "rows").mkdir()
    for split, seed in (("train", 0), ("validation", 1)):
        write(place / "rows" / f"{split}.jsonl", rows(40, seed=seed))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    out = place / "out"
    ended = run(
        *("sweep", place / "model", "--task", "sst2", "--data", place / "rows", "--flops", "0.5", "--max-length", "32"),
        *("--calibration-tokens", "150", "--method", "random", "--out", out, "--report", place / "out.html"),
    )
    assert ended.code == 0, ended
    written = [file for file in [place / "out.html", *out.rglob("*")] if file.suffix in (".json", ".md", ".html")]
    assert len(written) > 5
    told = {file: file.read_text() for file in written}
    assert not [file for file, text in told.items() if "somebody" in text or str(tmp_path) in text]
    assert "…/model" in json.loads((out / "frontier.json").read_text())[0]["command"]


def test_names_from_the_current_folder_and_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "here")
    assert shared_name(f"{tmp_path}/here/model") == "model"
    assert shared_name(f"{tmp_path}/model") == "~/model"
    assert own_name("~/model") == f"{tmp_path}/model"
    assert (
        shared_text(f"{tmp_path}/a.csv, line 2: see https://example.org/x")
        == "~/a.csv, line 2: see https://example.org/x"
    )


def test_a_link_out_of_a_model_is_not_copied(tiny_bert, tokenizer, tmp_path: Path) -> None:
    checkpoint.write(tiny_bert(None), tmp_path / "model", tokenizer=tokenizer)
    (tmp_path / "model" / "modules.json").write_text("[]")
    (tmp_path / "secret.json").write_text("{}")
    assert set(sentence_transformers_files(str(tmp_path / "model"))) == {"modules.json"}
    (tmp_path / "model" / "sentence_bert_config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(CheckpointError, match=r"sentence_bert_config\.json is a link that leads out"):
        sentence_transformers_files(str(tmp_path / "model"))
    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    shutil.copytree(tmp_path / "model", tmp_path / "hub" / "snapshots" / "abc", symlinks=True)
    link = tmp_path / "hub" / "snapshots" / "abc" / "sentence_bert_config.json"
    link.unlink()
    (tmp_path / "hub" / "blobs" / "123").write_text("{}")
    link.symlink_to(tmp_path / "hub" / "blobs" / "123")
    assert len(sentence_transformers_files(str(link.parent))) == 2
