"""How many tokens are calibrated on unasked, and what is said of it before the work starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from conftest import TinyBert
from trimformer import Project, Pruner, TrimformerWarning, plugins
from trimformer.model.structure import read_structure
from trimformer.progress import Stages
from trimformer.pruning.method_options import make_method
from trimformer.pruning.parameters import AUTO, FIXED_TOKENS, MOST_TOKENS
from trimformer.pruning.timing import Timing, one_digit

ROWS = [{"input_ids": [2, *([5, 6, 7] * (1 + number % 8)), 3]} for number in range(80)]
TOKENS = sum(len(row["input_ids"]) for row in ROWS)


class Heard:
    """What was said of a choice, and the choice itself."""

    def __init__(self, tiny_bert: TinyBert) -> None:
        self.dense = read_structure(tiny_bert())
        self.said: list[str] = []

    def chosen(self, tokens: Any, rows: Any = ROWS, *, method: str = "surgeon", minutes: float = 10.0) -> int | None:
        """Choose as `Pruner` does."""
        return Timing(self.dense, None, make_method(method, {}), minutes, self.said.append).chosen(tokens, rows)


@pytest.fixture
def heard(tiny_bert: TinyBert) -> Heard:
    return Heard(tiny_bert)


def test_all_tokens_are_taken_where_time_and_memory_allow(heard: Heard) -> None:
    assert heard.chosen(AUTO) == TOKENS
    assert heard.said[0].startswith(f"calibrating on all {TOKENS:,} tokens: about ")


def test_no_more_are_taken_than_the_minutes_allow(heard: Heard) -> None:
    chosen = heard.chosen(AUTO, minutes=1e-6)
    assert chosen is not None
    assert 1 <= chosen < TOKENS
    assert chosen == one_digit(chosen)
    assert f"calibrating on {chosen:,} of {TOKENS:,} tokens" in heard.said[0]
    assert "(`minutes=1e-06` allows no more)" in heard.said[0]


def test_no_more_are_taken_than_pay(heard: Heard) -> None:
    many = ROWS * (MOST_TOKENS // TOKENS + 1)
    assert heard.chosen(AUTO, many, minutes=1e6) == MOST_TOKENS
    assert f"100,000 of more than 100,000 tokens: {heard.said[0].rpartition(': ')[2]}" in heard.said[0]
    assert heard.chosen(AUTO, many, method="dual_cp", minutes=1e6) == FIXED_TOKENS


def test_a_number_is_obeyed_and_said_if_it_takes_long(heard: Heard) -> None:
    assert heard.chosen(500) == 500
    assert heard.chosen(None) is None
    assert not heard.said
    assert heard.chosen(500, minutes=1e-6) == 500
    assert heard.chosen(None, minutes=1e-6) is None
    assert [line.partition(":")[0] for line in heard.said] == [
        f"calibrating on {count:,} tokens" for count in (500, TOKENS)
    ]


def test_python_and_projects_draw_by_themselves(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    said: list[str] = []
    stages = Stages(lambda items, _: items, 0, said.append)
    texts = Dataset.from_dict({"text": [f"the film is good {'and long ' * (n % 7)}" for n in range(60)]})
    pruner = Pruner(tiny_bert(), texts, tokenizer=tokenizer, progress=stages)
    project = Project(tiny_bert(), tokenizer, plugins.load("tasks", "text"), texts, texts.select([0]), progress=stages)
    of_project = project.pruner(calibration_tokens=AUTO)
    assert pruner.calibration.sequences == 60
    assert 0 < of_project.calibration.sequences < 60
    assert [line.partition(":")[0] for line in said] == [
        f"calibrating on all {each.calibration.tokens:,} tokens" for each in (pruner, of_project)
    ]


def test_rows_far_shorter_than_the_use_are_warned_of(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    short, long = ({"text": [" ".join(["cat"] * size)] * 30} for size in (3, 40))
    with pytest.warns(TrimformerWarning, match="5 tokens on average, `sequence_length` is 20: accuracy may suffer"):
        Pruner(tiny_bert(), short, tokenizer=tokenizer, sequence_length=20)
    rows = Dataset.from_dict(short), Dataset.from_dict(long)
    project = Project(tiny_bert(), tokenizer, plugins.load("tasks", "text"), *rows)
    with pytest.warns(TrimformerWarning, match="5 tokens on average, the evaluation rows 42: accuracy") as warned:
        pruner = project.pruner(method="magnitude")
    assert str(warned[-1].message) in pruner.warnings
    as_long = replace(project, calibration_rows=Dataset.from_dict({"text": [" ".join(["cat"] * 39)] * 30}))
    assert not any("on average" in warning for warning in as_long.pruner(method="magnitude").warnings)
