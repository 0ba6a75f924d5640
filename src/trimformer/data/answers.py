"""Answers to questions, in whatever form rows have them, and SQuAD's official nested form as one row a question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from trimformer.data.columns import located, place_of, row_names
from trimformer.errors import DataError


def read_answers(given: Any) -> tuple[list[str], list[int]] | None:
    """Read a row's accepted answers, and where they begin if that is said; None if they are in no known form.

    >>> read_answers({"text": ["tree"], "answer_start": [4]}), read_answers("tree"), read_answers([])
    ((['tree'], [4]), (['tree'], []), ([], []))
    """
    entries = given if isinstance(given, list) else [given]
    found: list[Any] = []
    starts: list[Any] = []
    for entry in entries:
        text, start = (entry.get("text"), entry.get("answer_start")) if isinstance(entry, dict) else (entry, [])
        found += text if isinstance(text, list) else [text]
        starts += start if isinstance(start, list) else [] if start is None else [start]
    placed = all(isinstance(start, int) or str(start).isdecimal() for start in starts)
    if not (placed and all(isinstance(text, str) for text in found)):
        return None
    return [text for text in found if text.strip()], list(map(int, starts))


def flatten(articles: Dataset) -> Dataset:
    """Turn the official nested form (articles of paragraphs of questions) into one row a question.

    Raises:
        DataError: an article is not of that form; says which.
    """
    named = zip(row_names(articles), articles["paragraphs"], strict=True)
    rows = [row for where, paragraphs in named for row in _questions(where, paragraphs)]
    return located(Dataset.from_list(rows), place_of(articles))


def _questions(where: str, paragraphs: Any) -> list[dict[str, Any]]:
    try:
        return [_row(paragraph, question) for paragraph in paragraphs for question in paragraph["qas"]]
    except (AttributeError, KeyError, TypeError) as error:
        form = "a list of {context, qas: [{id, question, answers}]}"
        raise DataError(f"{where}: 'paragraphs' is not {form}, as SQuAD has them; mend the article") from error


def _row(paragraph: Mapping[str, Any], question: Mapping[str, Any]) -> dict[str, Any]:
    given = question.get("answers") or []
    answers = {name: [answer[name] for answer in given] for name in ("text", "answer_start")}
    about = {"id": question.get("id"), "context": paragraph["context"], "question": question["question"]}
    return {**about, "answers": answers}
