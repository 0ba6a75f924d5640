"""Windows never mix questions, the best span is the best, and answers are scored as the benchmark scores them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from conftest import TinyBert
from trimformer import plugins
from trimformer.data.columns import texts
from trimformer.errors import DataError, InvalidOption, LabelError, UnsupportedModel
from trimformer.tasks import question_answering as squad

SHARED = Path(__file__).parents[3] / "shared"
QUESTIONS = ["who saw the cat?", "where was the dog?"]
CONTEXTS = ["The old city was built " * 30 + "in a tree", "a dog was in the house"]


@pytest.mark.parametrize(
    ("answer", "accepted", "f1", "exact_match"),
    [
        ("the cat", ["Cat!"], 1.0, 1.0),
        ("big red cat", ["red cat", "dog"], 0.8, 0.0),
        ("a cat", ["dog"], 0.0, 0.0),
        ("", ["dog"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("dog", [], 0.0, 0.0),
        ("cat cat", ["cat"], 2 / 3, 0.0),
    ],
)
def test_scores_by_hand(answer: str, accepted: list[str], f1: float, exact_match: float) -> None:
    assert squad.score(answer, accepted) == pytest.approx({"f1": f1, "exact_match": exact_match})


def test_best_span_is_the_best_allowed_pair() -> None:
    start, end = torch.zeros(50), torch.zeros(50)
    start[[10, 20]] = torch.tensor([5.0, 4.0])
    end[[9, 25, 45]] = torch.tensor([9.0, 3.0, 3.5])
    assert squad.best_span(start, end) == squad.Span(8.0, 10, 25)
    assert squad.best_span(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])).score == 1.0
    assert squad.best_span(torch.arange(60.0), -torch.arange(60.0)).score == float("-inf")


@pytest.mark.parametrize("seed", range(5))
def test_best_span_equals_trying_all_pairs(seed: int) -> None:
    start, end = torch.randn(2, 18, generator=torch.Generator().manual_seed(seed))
    best = max((start[i] + end[j], i, j) for i in range(18) for j in range(i, 18))
    assert squad.best_span(start, end) == squad.Span(float(best[0]), best[1], best[2])


def test_windows_cover_the_context_and_never_mix_questions(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = Dataset.from_dict({"question": QUESTIONS, "context": CONTEXTS})
    found = list(squad.windows(rows, tokenizer))
    assert {window.question for window in found} == {0, 1}
    for number, context in enumerate(CONTEXTS):
        own = [window for window in found if window.question == number]
        covered = {int(place) for window in own for span in window.spans for place in range(*span.tolist())}
        assert covered == {place for place, letter in enumerate(context) if letter != " "}
        for window in own:
            ids = window.inputs["input_ids"]
            assert len(ids) <= tokenizer.model_max_length
            asked = tokenizer(QUESTIONS[number])["input_ids"]
            assert ids[: len(asked)] == asked
            pieces = [context[first:last].lower() for first, last in window.spans.tolist()]
            tokens = tokenizer.convert_ids_to_tokens(ids)[window.context_start : -1]
            assert [token.removeprefix("##") for token in tokens] == pieces
    assert sum(window.question == 0 for window in found) > 2


def test_long_questions_leave_room_for_the_context(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = Dataset.from_dict({"question": ["  who " * 200, "x"], "context": [CONTEXTS[1], "cat"]})
    found = list(squad.windows(rows, tokenizer))
    assert [window.question for window in found] == [0, 1]
    assert [len(window.spans) for window in found] == [6, 1]


def test_perfect_logits_give_the_answer_and_null_logits_none(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = Dataset.from_dict({"question": QUESTIONS, "context": CONTEXTS})
    found = list(squad.windows(rows, tokenizer))
    logits = [torch.zeros(2, len(window.inputs["input_ids"])) for window in found]
    last = max(index for index, window in enumerate(found) if window.question == 0)
    place = found[last].context_start + len(found[last].spans) - 1
    logits[last][:, place] = 5
    logits[-1][:, 0] = 9
    assert squad.best_answers(found, logits, CONTEXTS, may_lack_answer=True) == ["tree", ""]
    assert squad.best_answers(found, logits, CONTEXTS, may_lack_answer=False)[1] != ""


def test_official_nested_form_equals_the_flat_one(tmp_path: Path) -> None:
    answers = [{"text": "tree", "answer_start": 3}, {"text": "a tree", "answer_start": 1}]
    asked = [
        {"id": "1", "question": QUESTIONS[0], "answers": answers},
        {"id": "2", "question": QUESTIONS[1], "answers": [], "is_impossible": True},
    ]
    articles = [{"title": name, "paragraphs": [{"context": CONTEXTS[0], "qas": asked}]} for name in "ab"]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
    rows = squad.PROVIDES["squad_v2"].rows(str(tmp_path), "validation")
    assert len(rows) == 4
    assert rows[0] == {
        "id": "1",
        "context": CONTEXTS[0],
        "question": QUESTIONS[0],
        "answers": {"text": ["tree", "a tree"], "answer_start": [3, 1]},
    }
    with pytest.raises(DataError, match=r"row 2 has no answer.*squad_v2"):
        squad.PROVIDES["squad"].rows(str(tmp_path), "validation")


GOOD_ARTICLE = {"paragraphs": [{"context": "a tree", "qas": [{"id": "1", "question": "what", "answers": []}]}]}


@pytest.mark.parametrize(
    "article",
    [
        {"paragraphs": None},
        {"paragraphs": "text"},
        {"paragraphs": [{"context": "a tree"}]},
        {"paragraphs": [{"qas": GOOD_ARTICLE["paragraphs"][0]["qas"]}]},
        {"paragraphs": [{"context": "a tree", "qas": [{"id": "1", "question": None, "answers": []}]}]},
        {"paragraphs": [{"context": "a tree", "qas": [{"id": "1", "question": "what", "answers": ["tree"]}]}]},
        {"paragraphs": [{"context": "a tree", "qas": ["what"]}]},
    ],
)
def test_a_nested_article_of_another_form_is_named(article: dict[str, object], tmp_path: Path) -> None:
    articles = [GOOD_ARTICLE, article] if article["paragraphs"] is None else [article, article]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
    task = squad.PROVIDES["squad_v2"]
    with pytest.raises(DataError, match=r"validation\.json, row [12]: '"):
        texts(task.rows(str(tmp_path), "validation"), "question")


def test_wrong_rows_models_and_lengths_are_refused(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    task = squad.PROVIDES["squad"]
    good = {"question": QUESTIONS, "context": CONTEXTS, "answers": [{"text": ["tree"]}, {"text": ["house"]}]}
    with pytest.raises(UnsupportedModel, match="does not answer questions"):
        task.evaluate(tiny_bert(), tokenizer, Dataset.from_dict(good))
    with pytest.raises(DataError, match="row 1: 'answers' is not"):
        task.accepted_answers(Dataset.from_dict({**good, "answers": [3, 4]}))
    with pytest.raises(DataError, match=r"row 2 has an empty context"):
        task.encode(Dataset.from_dict({**good, "context": [CONTEXTS[0], " "]}), tokenizer)
    with pytest.raises(InvalidOption, match="no room for a context"):
        task.encode(Dataset.from_dict(good), tokenizer, max_length=10)


@pytest.mark.slow
def test_real_questions_have_their_answers_in_their_windows() -> None:
    checkpoint, source = SHARED / "models" / "minilm-sst2", SHARED / "data" / "xquad"
    if not (checkpoint.exists() and source.exists()):
        pytest.skip(f"needs {checkpoint} and {source}")
    task = plugins.load("tasks", "squad")
    rows = task.rows(str(source), "validation")
    found = list(squad.windows(rows, AutoTokenizer.from_pretrained(checkpoint)))
    right = task.accepted_answers(rows)
    contexts, logits = list(rows["context"]), []
    for window in found:
        begin = contexts[window.question].index(right[window.question][0])
        end = begin + len(right[window.question][0])
        values = torch.zeros(2, len(window.inputs["input_ids"]))
        inside = [place for place, (low, high) in enumerate(window.spans.tolist()) if low < end and high > begin]
        if inside:
            values[0, window.context_start + inside[0]] = values[1, window.context_start + inside[-1]] = 1 + len(inside)
        logits.append(values)
    answers = squad.best_answers(found, logits, contexts, may_lack_answer=False)
    exact = np.mean(
        [squad.score(answer, accepted)["exact_match"] for answer, accepted in zip(answers, right, strict=True)]
    )
    assert exact > 0.97


class TestLabels:
    TASK = plugins.load("tasks", "squad")
    ROWS = Dataset.from_dict(
        {
            "question": [*QUESTIONS, "who was big?"],
            "context": [*CONTEXTS, "a dog"],
            "answers": [
                {"text": ["a tree"], "answer_start": [CONTEXTS[0].index("a tree")]},
                {"text": ["the house", "house"], "answer_start": [13, 17]},
                {"text": [], "answer_start": []},
            ],
        }
    )

    def test_positions_are_those_of_the_answer_where_it_is_and_zero_elsewhere(
        self, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        rows = self.ROWS.select([0, 1])
        found = list(squad.windows(rows, tokenizer))
        features = self.TASK.encode(rows, tokenizer, labels=True)
        answers = []
        for window, feature in zip(found, features, strict=True):
            first, last = feature["start_positions"], feature["end_positions"]
            assert {**window.inputs, "start_positions": first, "end_positions": last} == feature
            answers.append(tokenizer.decode(feature["input_ids"][first : last + 1]) if last else None)
        assert len(found) > 3
        assert answers[:-2] == [None] * (len(found) - 2)
        assert answers[-2:] == ["a tree", "the house"]

    def test_a_question_without_answer_points_at_the_first_token(self, tokenizer: PreTrainedTokenizerBase) -> None:
        feature = plugins.load("tasks", "squad_v2").encode(self.ROWS.select([2]), tokenizer, labels=True)[0]
        assert (feature["start_positions"], feature["end_positions"]) == (0, 0)
        with pytest.raises(LabelError, match="row 1 has no answer"):
            self.TASK.encode(self.ROWS.select([2]), tokenizer, labels=True)

    @pytest.mark.parametrize("start", [-1, 15, 100])
    def test_an_answer_outside_its_context_is_refused(self, tokenizer: PreTrainedTokenizerBase, start: int) -> None:
        rows = self.ROWS.select([0, 1]).to_list()
        rows[1]["answers"]["answer_start"] = [start]
        with pytest.raises(LabelError, match=f"row 2: the answer 'the house' does not begin at {start}"):
            self.TASK.encode(Dataset.from_list(rows), tokenizer, labels=True)


class TestOnesOwn:
    TASK = plugins.load("tasks", "question_answering")
    FORMS = ({"text": ["dog"], "answer_start": [2]}, [{"text": "dog", "answer_start": 2}], ["dog"], "dog")

    @pytest.mark.parametrize("form", FORMS)
    def test_answers_in_every_form(self, form: object, tokenizer: PreTrainedTokenizerBase, tiny_bert: TinyBert) -> None:
        columns = {"question": QUESTIONS[1:], "context": CONTEXTS[1:]}
        expected = Dataset.from_dict({**columns, "answers": [self.FORMS[0]]})
        rows = Dataset.from_dict({**columns, "answer" if form == "dog" else "answers": [form]})
        assert self.TASK.encode(rows, tokenizer, labels=True) == self.TASK.encode(expected, tokenizer, labels=True)
        model = tiny_bert("QuestionAnswering")
        assert self.TASK.evaluate(model, tokenizer, rows) == self.TASK.evaluate(model, tokenizer, expected)

    def test_no_answer_is_right_where_a_row_has_none(
        self, tokenizer: PreTrainedTokenizerBase, tiny_bert: TinyBert
    ) -> None:
        model = tiny_bert("QuestionAnswering")
        rows = Dataset.from_dict({"question": QUESTIONS, "context": CONTEXTS, "answer": ["tree", ""]})
        accepted = self.TASK.accepted_answers(rows)
        assert accepted == [["tree"], []]
        with pytest.raises(DataError, match="row 2 has no answer"):
            plugins.load("tasks", "squad").accepted_answers(rows)
        start, end = model.qa_outputs.weight.data
        end.copy_(start)
        model.qa_outputs.bias.data.zero_()
        found = self.TASK.evaluate(model, tokenizer, rows)
        assert found == plugins.load("tasks", "squad_v2").evaluate(model, tokenizer, rows)

    def test_an_answer_that_is_not_there(self, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = Dataset.from_dict({"question": QUESTIONS[1:], "context": CONTEXTS[1:], "answer": ["river"]})
        with pytest.raises(LabelError, match="the answer 'river' is not in its context"):
            self.TASK.encode(rows, tokenizer, labels=True)
        with pytest.raises(DataError, match="nor a text or a list of texts"):
            self.TASK.accepted_answers(Dataset.from_dict({"answers": [3]}))
