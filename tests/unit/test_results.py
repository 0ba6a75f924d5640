"""A result in Python: one line, HTML for a notebook, a checkpoint that loads by the lines that it names, a report."""

from __future__ import annotations

import io
import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from test_report_page import Page
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

import trimformer
from bare_python import without_the_package
from conftest import WORDS, TinyBert
from example_facts import HOSTILE, facts, metric
from trimformer import Budget, Project, PruningResult, plugins
from trimformer.errors import CheckpointError
from trimformer.judging.manifest import DenseFacts, Manifest
from trimformer.judging.metrics import Metric
from trimformer.judging.result import TaskResult, collapse, other_tokens
from trimformer.model.checkpoint import write
from trimformer.pruning.facts import BudgetFacts
from trimformer.report.headline import exported, headline
from trimformer.report.loading import in_one_line, is_of_sentence_transformers, loading, loads_code
from trimformer.report.results import record
from trimformer.vocabulary.facts import BeforeAfter, VocabularyFacts

TEXTS = [" ".join(WORDS.split()[start : start + 4 + start % 5]) for start in range(20)] * 3


def pruned(model: Any, tokenizer: PreTrainedTokenizerBase, **budget: Any) -> PruningResult:
    budget = Budget(**({"flops": 0.5} | budget))
    return trimformer.prune(
        model, TEXTS, budget=budget, tokenizer=tokenizer, calibration_tokens=200, method="magnitude"
    )


@pytest.fixture
def result(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> PruningResult:
    return pruned(tiny_bert(), tokenizer)


@pytest.fixture
def judged(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> TaskResult:
    rows = Dataset.from_dict({"text": [f"{text} {WORDS.split()[place % 24]}" for place, text in enumerate(TEXTS)]})
    parts = rows.select(range(40)), rows.select(range(40, 60))
    project = Project(tiny_bert(), tokenizer, plugins.load("tasks", "text"), *parts)
    return project.judge(project.pruner(calibration_tokens=100, method="magnitude").prune(Budget(flops=0.5)))


def test_a_result_is_one_short_line(result: PruningResult, judged: TaskResult) -> None:
    assert repr(result) == f"<PruningResult: {headline(record(result))}>"
    assert "FLOPs" in repr(result)
    assert "fast" not in repr(result)
    assert "slower" in repr(judged) or "fast" in repr(judged)
    assert "(n=20)" in repr(judged)
    assert max(len(repr(each)) for each in (result, judged)) < 120


def test_a_console_without_arrows_shows_a_result_all_the_same(
    result: PruningResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    print(result)  # noqa: T201  # as people do
    console.seek(0)
    assert " -> " in console.read()


def test_a_notebook_shows_the_table_and_the_picture(result: PruningResult, judged: TaskResult) -> None:
    for each in (result, judged):
        page = Page(each._repr_html_())
        assert {"table", "svg"} <= set(page.tags)
        assert headline(record(each)) in page.text
    assert "agreement, 20 rows" in page.text


def test_what_a_notebook_shows_is_escaped(judged: TaskResult) -> None:
    metrics = {which: {HOSTILE: metric(0.9)} for which in ("dense", "pruned")}
    hostile = TaskResult(judged.pruning, facts(source=HOSTILE, warnings=[HOSTILE], metrics=metrics))
    assert "<script" not in hostile._repr_html_()
    assert "script" not in Page(hostile._repr_html_()).tags


def test_a_result_is_saved_with_its_tokenizer_and_card(
    result: PruningResult, judged: TaskResult, tmp_path: Path
) -> None:
    for name, each in {"plain": result, "judged": judged}.items():
        folder = each.save(tmp_path / name)
        assert json.loads((folder / "trimformer.json").read_text()).items() >= each.manifest.items()
        assert headline(record(each)) in (folder / "README.md").read_text()
        assert trimformer.load_tokenizer(str(folder))("the dog")
        with pytest.raises(CheckpointError, match="exists"):
            each.save(folder)
        assert each.save(folder, overwrite=True) == folder


def test_a_result_has_a_report(result: PruningResult, judged: TaskResult, tmp_path: Path) -> None:
    for name, each in {"plain": result, "judged": judged}.items():
        page = each.report(tmp_path / f"{name}.html")
        assert headline(record(each)) in page.read_text()
        with pytest.raises(CheckpointError, match="exists"):
            each.report(page)
        assert each.report(page, overwrite=True) == page


def loaded(result: PruningResult, folder: Path) -> Any:
    """The model that the lines for a checkpoint load."""
    lines = loading(record(result), str(folder), sentences=is_of_sentence_transformers(folder))
    file = folder.parent / "lines.py"
    file.write_text(in_one_line(lines))
    return runpy.run_path(str(file))["model"]


@pytest.mark.parametrize(
    ("head", "said", "kind"),
    [
        ("SequenceClassification", 'pipeline("text-classification", "', "TextClassificationPipeline"),
        ("TokenClassification", 'pipeline("token-classification", "', "TokenClassificationPipeline"),
        ("MaskedLM", 'pipeline("fill-mask", "', "FillMaskPipeline"),
        ("QuestionAnswering", 'AutoModelForQuestionAnswering.from_pretrained("', "BertForQuestionAnswering"),
        (None, 'AutoModel.from_pretrained("', "BertModel"),
    ],
)
def test_the_lines_that_load_an_encoder(
    tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, head: str | None, said: str, kind: str
) -> None:
    result = pruned(tiny_bert(head), tokenizer)
    folder = result.save(tmp_path / "smaller")
    assert f'{said}{folder}", trust_remote_code=True)' in (loading(record(result), str(folder)))
    assert type(loaded(result, folder)).__name__ == kind


def test_a_pruned_model_saved_by_another_tool_is_loaded_with_its_code(
    tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """What fine-tuning and trimming know of it may be a dense model's facts: the folder says what it needs."""
    small, folder = pruned(tiny_bert(), tokenizer).model, tmp_path / "smaller"
    small.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tiny_bert().save_pretrained(tmp_path / "dense")
    for name, content in {"half": b"{", "list": b"[]", "bytes": b"\xff"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(content)
    places = ("smaller", "dense", "nowhere", "half", "list", "bytes")
    assert [loads_code(tmp_path / place) for place in places] == [True, False, None, None, None, None]
    facts_of_dense = Manifest(model=DenseFacts(model_class=type(small).__name__))
    lines = loading(facts_of_dense, str(folder), code=loads_code(folder))
    assert without_the_package(f"{lines}\nfound = len(model('the dog'))\n", None, tmp_path) == 1


def test_the_line_that_loads_a_decoder_and_one_of_equal_layers(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).eval()
    result = pruned(model, tokenizer, uniform=True, flops=0.8)
    folder = result.save(tmp_path / "smaller")
    assert loading(record(result), "smaller").endswith('model = AutoModelForCausalLM.from_pretrained("smaller")')
    assert type(loaded(result, folder)).__name__ == "GPT2LMHeadModel"


def test_sentence_transformers_loads_its_own_kind(
    tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder = write(tiny_bert(None), tmp_path / "encoder", tokenizer=tokenizer)
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}'
    )
    result = pruned(trimformer.load_model(str(folder)), tokenizer)
    smaller = result.save(tmp_path / "smaller")
    card = (smaller / "README.md").read_text()
    assert 'model = SentenceTransformer("this/folder", trust_remote_code=True)' in card
    assert "library_name: sentence-transformers" in card
    if find_spec("sentence_transformers"):
        assert loaded(result, smaller).encode(["red house"]).shape == (1, 32)


def test_a_perplexity_is_of_tokens() -> None:
    metrics = {
        which: {"perplexity": {"value": value, "sample_size": 46454, "low": value - 0.5, "high": value + 0.6}}
        for which, value in {"dense": 14.67, "pruned": 16.02}.items()
    }
    said = headline(facts(metrics=metrics))
    assert said.endswith("perplexity 14.67 → 16.02 ± 0.6 (n=46,454 tokens)")


def test_a_perplexity_among_fewer_tokens_is_warned_of() -> None:
    counts = dict.fromkeys(("tokens", "rows", "parameters", "bytes"), BeforeAfter(before=2000, after=1929))
    proved = {"proved_texts": 1, "other_texts": 0, "answered_texts": 1, "largest_difference": 0.0}
    trimmed = VocabularyFacts(texts="calibration", minimum_count=1, characters="all", **proved, **counts)  # type: ignore[arg-type]
    after = {"perplexity": Metric(14.0, 100, 13.0, 15.0)}
    assert "among its 1,929 kept tokens, the dense one's among 2,000" in str(other_tokens(after, trimmed))
    assert other_tokens(after, None) is None
    assert other_tokens({"accuracy": Metric(0.9, 100, 0.8, 1.0)}, trimmed) is None


def test_an_export_tells_the_loss_in_all() -> None:
    files = {"model.int8.onnx": {"megabytes": 18.2, "metrics": {"accuracy": metric(0.871)}}}
    original = {"source": "the/original", "megabytes": 90.9, "metrics": {"accuracy": metric(0.88)}}
    said = exported({"files": files, "original": original})
    assert said == "91 → 18 MB, accuracy 0.880 → 0.871 ± 0.02 (n=872): model.int8.onnx against the/original"
    assert exported({"files": files}) == ""


@pytest.mark.parametrize(
    ("name", "before", "after", "collapsed"),
    [
        ("perplexity", 50.0, 44.0, False),
        ("perplexity", 50.0, 5.0, False),
        ("perplexity", 50.0, 99.0, False),
        ("perplexity", 50.0, 120.0, True),
        ("accuracy", 0.9, 0.6, True),
        ("accuracy", 0.5, 0.9, False),
        ("kl", 0.0, 3.0, False),
    ],
)
def test_only_what_became_worse_is_a_collapse(name: str, before: float, after: float, *, collapsed: bool) -> None:
    budget = BudgetFacts(cost="flops", asked=0.5, reached=0.5)
    values = [{name: Metric(value, 100, value, value)} for value in (before, after)]
    assert (collapse(*values, budget) is not None) is collapsed
