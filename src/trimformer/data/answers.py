"""Answers to questions, in whatever form rows have them, and SQuAD's official nested form as one row a question."""

from __future__ import annotations

from typing import Any

from datasets import Dataset


def read_answers(given: Any) -> tuple[list[str], list[int]] | None:
    """Read a row's accepted answers, and where they begin if that is said; None if they are in no known form.

    >>> read_answers({"text": ["tree"], "answer_start": [4]}), read_answers("tree"), read_answers([])
    ((['tree'], [4]), (['tree'], []), ([], []))
    """
    entries = given if isinstance(given, list) else [given]
    found: list[Any] = []
    starts: list[int] = []
    for entry in entries:
        text, start = (entry.get("text"), entry.get("answer_start")) if isinstance(entry, dict) else (entry, [])
        found += text if isinstance(text, list) else [text]
        starts += start if isinstance(start, list) else [] if start is None else [start]
    if not all(isinstance(text, str) for text in found):
        return None
    return [text for text in found if text.strip()], starts


def flatten(articles: Dataset) -> Dataset:
    """Turn the official nested form (articles of paragraphs of questions) into one row a question."""
    rows = [
        {
            "id": question["id"],
            "context": paragraph["context"],
            "question": question["question"],
            "answers": {
                name: [answer[name] for answer in question.get("answers") or []] for name in ("text", "answer_start")
            },
        }
        for paragraphs in articles["paragraphs"]
        for paragraph in paragraphs
        for question in paragraph["qas"]
    ]
    return Dataset.from_list(rows)
