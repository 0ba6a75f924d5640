"""Progress: stages with numbers, the search with share and loss, and who sees a bar unasked."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

import trimformer
from conftest import WORDS, TinyBert
from trimformer import Budget, Project, plugins
from trimformer.errors import InvalidOption
from trimformer.judging.guard import smallest_within

TEXTS = [" ".join(WORDS.split()[start : start + 4 + start % 5]) for start in range(20)] * 3


class Told:
    """A user's function, which keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, items: Sequence[Any], description: str) -> Sequence[Any]:
        self.said.append(description)
        return items


def prune(model: Any, tokenizer: PreTrainedTokenizerBase, **options: Any) -> None:
    trimformer.prune(model, TEXTS, budget=Budget(flops=0.5), tokenizer=tokenizer, calibration_tokens=200, **options)


def test_stages_are_numbered(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    told = Told()
    prune(tiny_bert(), tokenizer, progress=told)
    assert "1 of 2: removal curves" in told.said
    assert told.said[-1] == "2 of 2: cutting and refitting"
    assert all(said.startswith(("1 of 2: ", "2 of 2: ")) for said in told.said)


def test_a_search_tells_its_step_share_and_loss(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    told = Told()
    rows = Dataset.from_dict({"text": [f"{text} {WORDS.split()[place % 24]}" for place, text in enumerate(TEXTS)]})
    task = plugins.load("tasks", "text")
    project = Project(tiny_bert(), tokenizer, task, rows.select(range(40)), rows.select(range(40, 60)), progress=told)
    project = project.with_guard()
    small = smallest_within(project, project.pruner(calibration_tokens=100), 1.0)
    project.judge(small)
    assert told.said[0] == "1 of 4: evaluating"
    assert "2 of 4: removal curves" in told.said
    assert "3 of 4, search 1 of 6, 50% kept: cutting and refitting" in told.said
    steps = [said for said in told.said if said.startswith("3 of 4, search 2 of 6, 25% kept, last lost ")]
    assert {said.rpartition(": ")[2] for said in steps} == {"cutting and refitting", "evaluating"}
    assert told.said[-1] == "4 of 4: measuring latency"


def test_pricing_a_budget_before_the_model_is_judged_counts_no_stage(
    tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase
) -> None:
    told, budget = Told(), Budget(flops=0.5)
    rows = Dataset.from_dict({"text": [f"{text} {WORDS.split()[place % 24]}" for place, text in enumerate(TEXTS)]})
    task = plugins.load("tasks", "text")
    project = Project(tiny_bert(), tokenizer, task, rows.select(range(40)), rows.select(range(40, 60)), progress=told)
    project.judge(project.pruner(calibration_tokens=100, budgets=[budget]).prune(budget))
    assert (told.said[0], told.said[-1]) == ("1 of 4: evaluating", "4 of 4: measuring latency")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "options", "shown"),
    [
        (Terminal, {}, True),
        (Terminal, {"progress": False}, False),
        (io.StringIO, {}, False),
        (io.StringIO, {"progress": True}, True),
    ],
)
def test_who_sees_a_bar(
    tiny_bert: TinyBert,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
    stream: type[io.StringIO],
    options: dict[str, Any],
    shown: bool,
) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stderr", stream())
    prune(tiny_bert(), tokenizer, **options)
    assert ("2 of 2: cutting and refitting" in sys.stderr.getvalue()) == shown


@pytest.mark.parametrize("wrong", ["yes", 3, []])
def test_what_is_no_progress_is_refused(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, wrong: Any) -> None:
    with pytest.raises(InvalidOption, match=r"`progress` is a .*: give True, False, or a function"):
        prune(tiny_bert(), tokenizer, progress=wrong)
