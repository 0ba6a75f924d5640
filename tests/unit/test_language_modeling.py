"""Perplexity against a count by hand; windows, strides, files, and what goes wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from conftest import SPECIAL, build_tokenizer
from tiny_models import tiny_model
from trimformer import plugins
from trimformer.data.batches import LOGITS_AT_ONCE, MAX_PADDED_TOKENS, split_batches, tokens_at_once
from trimformer.errors import DataError, InvalidOption, UnsupportedModel
from trimformer.judging.metrics import Metrics, degradation
from trimformer.judging.project import Project
from trimformer.pruning.budget import Budget
from trimformer.tasks.language_modeling import PASSAGE_CHARACTERS, LanguageModeling, _windows

TEXT = "the red cat saw a dog in the old house . who built the green tree ? a river was in the big city\n" * 5
LINES = "".join(f"the cat saw {number} old trees in city {number * 7}\n\n" for number in range(900))
SHARED = Path(__file__).parents[3] / "shared" / "data" / "lm"


@pytest.fixture
def task() -> LanguageModeling:
    return plugins.load("tasks", "language_modeling")


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return tiny_model("llama", "language model", vocab_size=len(tokenizer))


def with_begin() -> PreTrainedTokenizerBase:
    """A tokenizer that puts one token before every text, as Llama's does."""
    return build_tokenizer(bos_token=SPECIAL["cls_token"])


@torch.no_grad()
def by_hand(model: PreTrainedModel, ids: list[int], length: int, stride: int, begin: list[int]) -> tuple[float, int]:
    """Mean loss in nats and number of tokens, each predicted in the first window that has it, one at a time."""
    room = length - len(begin)
    step, done, total, count = min(stride, room), 0, 0.0, 0
    for start in range(0, len(ids), step):
        window = begin + ids[start : start + room]
        logits = model(input_ids=torch.tensor([window])).logits[0].log_softmax(-1)
        for place in range(1, len(window)):
            position = start + place - len(begin)
            if position >= done:
                total -= float(logits[place - 1, window[place]])
                count += 1
        done = start + len(ids[start : start + room])
        if done == len(ids):
            break
    return total / count, count


@pytest.mark.parametrize("stride", [None, 1, 7, 16])
@pytest.mark.parametrize("begins", [False, True])
def test_perplexity_is_that_counted_by_hand(
    task: LanguageModeling, model: PreTrainedModel, stride: int | None, begins: bool
) -> None:
    tokenizer = with_begin() if begins else build_tokenizer()
    ids = tokenizer(TEXT, add_special_tokens=False, verbose=False)["input_ids"]
    begin = [tokenizer.bos_token_id] if begins else []
    loss, count = by_hand(model, ids, 16, stride or 16, begin)
    rows = Dataset.from_dict({"text": [TEXT[:50], TEXT[50:]]})
    found = replace(task, stride=stride).evaluate(model, tokenizer, rows, max_length=16)["perplexity"]
    assert found.value == pytest.approx(torch.tensor(loss).exp().item(), rel=1e-4)
    unpredicted = 0 if begins else 1 if stride and stride < 16 else -(-len(ids) // 16)
    assert found.sample_size == count == len(ids) - unpredicted
    assert found.low < found.value < found.high


@torch.no_grad()
@pytest.mark.parametrize("stride", [None, 5])
def test_the_divergence_from_a_dense_model_is_that_counted_by_hand(
    task: LanguageModeling, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stride: int | None
) -> None:
    other, rows = (
        tiny_model("llama", "language model", vocab_size=len(tokenizer), seed=1),
        Dataset.from_dict({"text": [TEXT]}),
    )
    ids = tokenizer(TEXT, add_special_tokens=False, verbose=False)["input_ids"]
    begin, step = [], stride or 16
    found = replace(task, stride=stride).evaluate(model, tokenizer, rows, dense=other, max_length=16)
    total, count = 0.0, 0
    for window in _windows(ids, begin, 16, step):
        batch = torch.tensor([window.ids])
        ours, theirs = (each(input_ids=batch).logits[0, :-1].double().log_softmax(-1) for each in (model, other))
        total += float((theirs.exp() * (theirs - ours)).sum(-1)[-window.new :].sum()) if window.new else 0.0
        count += window.new
    assert found["kl"].value == pytest.approx(total / count, rel=1e-4)
    assert found["kl"].sample_size == found["perplexity"].sample_size == count
    assert task.evaluate(model, tokenizer, rows, dense=model)["kl"].value == 0


def test_a_dense_model_of_other_tokens_is_refused(
    task: LanguageModeling, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    other, rows = (
        tiny_model("llama", "language model", vocab_size=len(tokenizer) + 3),
        Dataset.from_dict({"text": [TEXT]}),
    )
    with pytest.raises(UnsupportedModel, match=rf"knows {len(tokenizer) + 3} tokens, the pruned one {len(tokenizer)}:"):
        task.evaluate(model, tokenizer, rows, dense=other)


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (8, 1), (20, 6), (100, 100)])
@pytest.mark.parametrize("begin", [[], [99]])
def test_every_token_is_predicted_at_most_once(length: int, stride: int, begin: list[int]) -> None:
    tokens = list(range(41))
    windows = list(_windows(tokens, begin, length, stride))
    predicted = [token for window in windows for token in window.ids[len(window.ids) - window.new :]]
    unpredicted = set() if begin else {0} if stride < length else set(tokens[::length])
    assert predicted == [token for token in tokens if token not in unpredicted]
    assert all(len(window.ids) <= length and window.ids[: len(begin)] == begin for window in windows)


def test_more_context_predicts_better_what_repeats(task: LanguageModeling) -> None:
    """A stride below the window is another measurement, not another sum of the same."""
    tokenizer = build_tokenizer()
    model = tiny_model("gpt2", "language model", vocab_size=len(tokenizer))
    rows = Dataset.from_dict({"text": [TEXT]})
    values = {stride: _value(replace(task, stride=stride).evaluate(model, tokenizer, rows)) for stride in (None, 8)}
    assert values[None] != pytest.approx(values[8], rel=1e-4)


def _value(metrics: Metrics) -> float:
    return metrics["perplexity"].value


def test_rows_are_the_whole_text_in_order(task: LanguageModeling, tmp_path: Path) -> None:
    (tmp_path / "valid.txt").write_text(LINES)
    (tmp_path / "test.txt").write_text(TEXT)
    assert "".join(task.rows(str(tmp_path), "train")["text"]) == LINES
    assert "".join(task.rows(str(tmp_path), "validation")["text"]) == TEXT
    passages = task.rows(str(tmp_path), "train")["text"]
    assert len(passages) > 1
    assert all(len(passage) >= PASSAGE_CHARACTERS for passage in passages[:-1])
    (tmp_path / "train.txt").write_text(TEXT)
    assert "".join(task.rows(str(tmp_path), "train")["text"]) == TEXT


def test_one_file_is_calibrated_on_at_the_front_and_judged_by_at_the_end(
    task: LanguageModeling, tmp_path: Path
) -> None:
    (tmp_path / "all.txt").write_text(LINES)
    train, judged = ("".join(task.rows(str(tmp_path / "all.txt"), split)["text"]) for split in ("train", "validation"))
    assert train + judged == LINES
    assert len(judged) == pytest.approx(0.2 * len(LINES), rel=0.05)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "needs a file to calibrate on"),
        ({"valid.txt": TEXT}, "needs a file to calibrate on"),
        ({"train.txt": "", "test.txt": TEXT}, "holds no text"),
        ({"train.txt": b"\xff\xfe\x00", "test.txt": TEXT}, "save it as UTF-8"),
    ],
)
def test_folders_without_what_is_needed(
    task: LanguageModeling, tmp_path: Path, files: dict[str, str | bytes], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        task.rows(str(tmp_path), "train")


def test_bad_input_is_named(task: LanguageModeling, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = Dataset.from_dict({"text": [TEXT]})
    with pytest.raises(DataError, match="this task has no text of its own"):
        task.rows(None, "train")
    with pytest.raises(InvalidOption, match="`stride=17` is outside 1 to 16"):
        replace(task, stride=17).evaluate(model, tokenizer, rows, max_length=16)
    with pytest.raises(InvalidOption, match="max_length=65` is outside 8 to 64"):
        task.evaluate(model, tokenizer, rows, max_length=65)
    with pytest.raises(DataError, match="fewer than two tokens"):
        task.evaluate(model, tokenizer, Dataset.from_dict({"text": ["cat"]}))
    with pytest.raises(UnsupportedModel, match="load a causal language model"):
        task.evaluate(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer, rows)


def test_a_tokenizer_without_padding_and_end_will_do(task: LanguageModeling, model: PreTrainedModel) -> None:
    tokenizer = build_tokenizer()
    rows = Dataset.from_dict({"text": [TEXT]})
    expected = _value(task.evaluate(model, tokenizer, rows, max_length=30))
    tokenizer.pad_token = tokenizer.eos_token = None
    assert _value(task.evaluate(model, tokenizer, rows, max_length=30)) == pytest.approx(expected)
    project = Project(model, tokenizer, task, Dataset.from_dict({"text": [LINES[:5000]]}), rows, max_length=30)
    assert _value(project.judge(project.pruner(calibration_tokens=500).prune(Budget(flops=0.9))).after) > 0


def test_windows_are_as_long_as_the_model_reads(task: LanguageModeling, model: PreTrainedModel) -> None:
    """A tokenizer need not know the context: neither rows of calibration nor of judging are longer."""
    unlimited = PreTrainedTokenizerFast(tokenizer_object=build_tokenizer().backend_tokenizer)
    assert unlimited.model_max_length > 10**20
    rows, others = (Dataset.from_dict({"text": [text]}) for text in (TEXT, LINES))
    project = Project(model, unlimited, task, others, rows)
    assert {len(row["input_ids"]) for row in project.drawn(1000, 0)} == {64}
    before = task.evaluate(model, build_tokenizer(), rows)
    assert before == task.evaluate(model, unlimited, rows) == {"perplexity": project.before["perplexity"]}
    project.judge(project.pruner(calibration_tokens=1000).prune(Budget(flops=0.6)))
    assert unlimited.model_max_length > 10**20


def test_windows_longer_than_the_model_reads_are_refused(task: LanguageModeling, model: PreTrainedModel) -> None:
    tokenizer = build_tokenizer(model_max_length=100_000)
    rows, others = (Dataset.from_dict({"text": [text]}) for text in (TEXT, LINES))
    for asked in (
        lambda: Project(model, tokenizer, task, others, rows, max_length=80).pruner(calibration_tokens=100),
        lambda: task.evaluate(model, tokenizer, rows, max_length=80),
    ):
        with pytest.raises(InvalidOption, match="max_length=80` is outside 8 to 64, the most that model and tokenizer"):
            asked()


def test_a_language_model_is_pruned_and_judged(task: LanguageModeling, model: PreTrainedModel) -> None:
    tokenizer = build_tokenizer()
    project = Project(
        model,
        tokenizer,
        task,
        Dataset.from_dict({"text": [LINES[:20_000]]}),
        Dataset.from_dict({"text": [TEXT]}),
        max_length=32,
    )
    result = project.judge(project.pruner(calibration_tokens=2000).prune(Budget(flops=0.6)))
    assert set(result.after) == {"perplexity", "kl"}
    lost = degradation(result.before, result.after)
    assert lost == pytest.approx(_value(result.after) / _value(result.before) - 1)


@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared beside the project")
@pytest.mark.parametrize("name", ["wikitext2", "ptb"])
def test_the_benchmarks_files_are_read(name: str) -> None:
    task = plugins.load("tasks", name)
    source = SHARED / name
    for split, file in (("train", "valid.txt"), ("validation", "test.txt")):
        assert "".join(task.rows(str(source), split)["text"]) == (source / file).read_text()


def test_batches_of_language_models_are_small_enough_for_their_logits(model: PreTrainedModel) -> None:
    batch = {"input_ids": torch.arange(60).reshape(6, 10), "labels": torch.arange(6)}
    parts = split_batches([batch, batch], 25)
    assert [len(part["input_ids"]) for part in parts] == [2, 2, 2] * 2
    assert all(torch.equal(torch.cat([part[name] for part in parts[:3]]), values) for name, values in batch.items())
    assert len(split_batches([batch], 3)) == 6
    model.config.vocab_size = LOGITS_AT_ONCE // 100
    assert tokens_at_once(model) == 100
    assert tokens_at_once(model.base_model) == tokens_at_once(tiny_model("bert")) == MAX_PADDED_TOKENS
