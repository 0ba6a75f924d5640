"""Makes rows for benchmarks, from those of `../shared` and from Python's standard library.

    python benchmarks/rows.py [--folder FOLDER]

Writes folders of rows below `~/.cache/trimformer-benchmarks/rows`, or below `--folder`, with seed 0. For decoders,
small tests of what they know:

- `last-word`: passages of SQuAD 2.0's paragraphs, of 30 words or more, that end with a sentence (task `last_word`);
- `answers`: a sentence with a question about it, and four answers of the same paragraph (task `likelihood_choice`);
- `sentiment`: SST-2's sentences, followed by praise or blame (task `likelihood_choice`);
- `wikitext2-by-english`: WikiText-2's `test`, to be calibrated on other English text (task `wikitext2`);
- `ptb-by-wikitext2`: part of Penn Treebank's `test`, to be calibrated on WikiText-2's `valid` (task `ptb`).

`train` is made of training rows only, `validation` of validation rows, which are of other articles. For classifiers of
several classes, SQuAD 2.0's 16 articles (task `classification`); every fifth paragraph of an article is for validation:

- `questions`: the article that a question is about;
- `paragraphs`: the article that a paragraph is of.

For question answering, `squad`: SQuAD 2.0's questions that have an answer, which are in SQuAD 1.1's format.

To judge by rows that nothing was chosen on: `held-back`, SST-2 with its test rows as `validation`. To choose by rows
that nothing is judged by: `choosing-mrpc`, MRPC's training rows, 600 of them as `validation`.

For sentence encoders:

- `docstrings`: first line and body of docstrings, those that `trimformer demo` takes (task `embedding`); the modules of
  `train` and `validation` are not the same, and another version of Python has others.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimformer.data.demo import docstring_pairs
from trimformer.model.folders import write_text

DATA = Path(__file__).parents[2] / "shared" / "data"
FOLDER = Path("~/.cache/trimformer-benchmarks").expanduser()
SENTENCE_END = re.compile(r"(?<=[a-z)][.!?])\s+(?=[A-Z])")
SHORTEST_PASSAGE = 30
"""Words of a passage."""
CHOICES = 4
SPLITS = ("train", "validation")
MOST_ROWS = {"train": 1000, "validation": 400}
HELD_OUT = 5
"""Every how many-th paragraph of an article is for validation."""
TO_CHOOSE_BY = 600
TEXTS = {
    "wikitext2-by-english": ("english/train", "wikitext2/test", None),
    "ptb-by-wikitext2": ("wikitext2/valid", "ptb/test", 100_000),
}
"""Text to calibrate on, text to judge by, and the characters of that."""
VERDICTS = ("It was terrible.", "It was great.")

Row = dict[str, object]


def main() -> None:
    """Write all rows into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    write_all(parser.parse_args().folder / "rows")


def write_all(folder: Path) -> None:
    """Write all rows, a folder each."""
    for name, make in {"last-word": last_words, "answers": answers, "sentiment": sentiment}.items():
        for split, most in MOST_ROWS.items():
            rows = list(make(split))
            order = np.random.default_rng(0).permutation(len(rows))[:most]
            write(folder / name / f"{split}.jsonl", [rows[place] for place in order])
    for name, column in {"questions": "question", "paragraphs": "context"}.items():
        for split, rows in zip(SPLITS, articles(column), strict=True):
            write(folder / name / f"{split}.jsonl", rows)
    for split in SPLITS:
        write(folder / "squad" / f"{split}.jsonl", [row for row in read("squad_v2", split) if row["answers"]["text"]])
    for split, source in zip(SPLITS, ("train", "test"), strict=True):
        write(folder / "held-back" / f"{split}.jsonl", read("glue/sst2", source))
    for split, rows in zip(SPLITS, to_choose_by("glue/mrpc"), strict=True):
        write(folder / "choosing-mrpc" / f"{split}.jsonl", rows)
    for name, (read_by, judged_by, length) in TEXTS.items():
        write_running(folder / name, read_by, judged_by, length)
    for split, pairs in zip(SPLITS, docstring_pairs(lambda items, _: items), strict=True):
        write(folder / "docstrings" / f"{split}.jsonl", pairs.to_list())


def write(file: Path, rows: Sequence[Row]) -> None:
    """Write rows, and say how many."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), file)
    print(f"{file}: {len(rows)} rows")


def write_running(folder: Path, read_by: str, judged_by: str, length: int | None) -> None:
    """Write running text to calibrate on, and some to judge by: all of it, or so many characters."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, source in {"train": read_by, "test": judged_by}.items():
        text = (DATA / "lm" / f"{source}.txt").read_text(encoding="utf-8")
        write_text(text[: length if split == "test" else None], folder / f"{split}.txt")


def last_words(split: str) -> Iterator[Row]:
    """Cut every paragraph into passages of whole sentences."""
    for paragraph in dict.fromkeys(row["context"] for row in read("squad_v2", split)):
        passage: list[str] = []
        for sentence in SENTENCE_END.split(paragraph):
            passage.append(sentence)
            if len(" ".join(passage).split()) >= SHORTEST_PASSAGE:
                if sentence[-2].isalpha():
                    yield {"text": " ".join(passage)}
                passage = []


def answers(split: str) -> Iterator[Row]:
    """Offer each question's answer with others of its paragraph, after the sentence that has it."""
    rows = [row for row in read("squad_v2", split) if row["answers"]["text"]]
    known: dict[str, list[str]] = {}
    for row in rows:
        known.setdefault(row["context"], []).append(row["answers"]["text"][0])
    draw = np.random.default_rng(0)
    for row in rows:
        right, context = row["answers"]["text"][0], row["context"]
        others = [text for text in dict.fromkeys(known[context]) if text not in right and right not in text]
        if len(others) < CHOICES - 1:
            continue
        choices = [right, *map(str, draw.choice(others, CHOICES - 1, replace=False))]
        choices = [choices[place] for place in draw.permutation(CHOICES)]
        sentence = sentence_at(context, row["answers"]["answer_start"][0])
        prompt = f"{sentence}\nQuestion: {row['question'].strip()}\nAnswer:"
        yield {"prompt": prompt, "choices": choices, "label": choices.index(right)}


def sentiment(split: str) -> Iterator[Row]:
    """Let every sentence be followed by praise or blame."""
    for row in read("glue/sst2", split):
        yield {"prompt": row["sentence"], "choices": list(VERDICTS), "label": row["label"]}


def articles(column: str) -> tuple[list[Row], list[Row]]:
    """Tell what each article is about by a column of its rows; rows to train on, and those of every fifth paragraph."""
    splits: tuple[list[Row], list[Row]] = [], []
    rows = [row for split in SPLITS for row in read("squad_v2", split)]
    paragraphs: dict[str, dict[str, int]] = {}
    for row in rows:
        of_article = paragraphs.setdefault(row["title"], {})
        of_article.setdefault(row["context"], len(of_article))
    for text, row in {row[column]: row for row in rows}.items():
        held_out = paragraphs[row["title"]][row["context"]] % HELD_OUT == 0
        splits[held_out].append({"text": text, "label": row["title"]})
    return splits


def to_choose_by(folder: str) -> tuple[list[Row], list[Row]]:
    """Divide training rows at random into some to calibrate on, and some to choose by."""
    rows = read(folder, "train")
    random.Random(0).shuffle(rows)  # noqa: S311  # no secret
    return rows[TO_CHOOSE_BY:], rows[:TO_CHOOSE_BY]


def sentence_at(paragraph: str, place: int) -> str:
    """Find the sentence that has a character."""
    starts = [0, *(match.end() for match in SENTENCE_END.finditer(paragraph))]
    start = max(each for each in starts if each <= place)
    end = min((each for each in starts if each > place), default=len(paragraph))
    return paragraph[start:end].strip()


def read(folder: str, split: str) -> list[dict[str, Any]]:
    """Read the rows of a split."""
    lines = (DATA / folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
