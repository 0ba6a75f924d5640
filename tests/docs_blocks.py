"""For the tests that run the documentation: the code blocks of a page, and a folder with all that they name.

A block that cannot run is marked in the page, where a reader of its source sees why: `<!-- not run: the reason -->`.
"""

from __future__ import annotations

import ast
import json
import random
import re
import shlex
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from conftest import WORDS, build_tokenizer
from trimformer import cut, read_structure
from trimformer.model import checkpoint

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"(?:^<!-- not run: ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
WRITERS = {"save", "report", "export", "finetune"}
"""Names of functions in Python whose texts are files or folders that they make."""
HUB_NAMES = ("distilbert/distilbert-base-uncased-finetuned-sst-2-english",)
"""Names on the hub that the pages use: the model beside them takes their place."""
TOKENS = 150


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    language: str
    """Empty for a shell."""
    text: str
    reason: str
    """Why it is not run; empty if it is."""

    @property
    def lines(self) -> list[str]:
        """Commands of a shell, each in one line."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]

    @property
    def commands(self) -> list[list[str]]:
        """Words of its `trimformer …` lines, without the first."""
        return [shlex.split(line, comments=True)[1:] for line in self.lines if line.startswith("trimformer ")]


def blocks(page: Path) -> list[Block]:
    """Find the code blocks of a page, in order."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, text, reason) for reason, language, text in found]


def written_by(code: str) -> set[str]:
    """Find the names of files and folders that Python code makes."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return {
        argument.value
        for call in calls
        if getattr(call.func, "attr", getattr(call.func, "id", "")) in WRITERS
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def texts(count: int, seed: int) -> list[str]:
    """Make random texts of 20 to 40 words."""
    generator = random.Random(seed)  # noqa: S311  # words for a test
    return [" ".join(generator.choices(WORDS.split(), k=generator.randint(20, 40))) for _ in range(count)]


def prepare(folder: Path, *, decoder: bool = False, large: bool = False) -> None:
    """Fill a folder with what the pages name: models, pruned ones, and rows in every form.

    Args:
        folder: to fill.
        decoder: whether the models are decoders.
        large: whether they have as many layers, heads and neurons as pages ask for by number.
    """
    made = _models(decoder=decoder, large=large)
    for name in ("MODEL", "model", "my-model"):
        (folder / name).mkdir()
        for path, content in made.items():
            (folder / name / path).write_bytes(content)
    model = checkpoint.load_model(str(folder / "MODEL"))
    cut(model, {site.name: [0] for site in read_structure(model)}, in_place=True)
    tokenizer, facts = checkpoint.load_tokenizer(str(folder / "MODEL")), {"task": "sst2", "data": "reviews"}
    checkpoint.write(model, folder / "smaller", tokenizer=tokenizer, manifest=facts)
    compared = next(block.text for block in blocks(ROOT / "docs" / "compare.md") if block.language == "yaml")
    for name in ("reviews", "methods"):
        (folder / f"{name}.yaml").write_text(compared)
    train, validation = texts(900, seed=0), texts(60, seed=1)
    for name in ("reviews", "DIR"):
        (folder / name).mkdir()
        for split, rows in (("train", train), ("validation", validation)):
            _write(folder / name / f"{split}.jsonl", [{"sentence": row, "label": i % 2} for i, row in enumerate(rows)])
    (folder / "wikitext2").mkdir()
    for split, rows in (("train", train), ("test", validation)):
        (folder / "wikitext2" / f"{split}.txt").write_text("\n".join(rows))
    for name in ("rows", "others", "reviews"):
        _write(folder / f"{name}.jsonl", [{"text": row} for row in train])
    for name in ("rows", "tickets"):
        (folder / f"{name}.txt").write_text("\n".join(train))
    _write(folder / "pairs.jsonl", [{"first": row[:40], "second": row[40:]} for row in train])
    (folder / "tickets.csv").write_text("text,label\n" + "".join(f"{row},{i % 2}\n" for i, row in enumerate(train)))
    rated = "".join(f"{row};{i % 2}\n" for i, row in enumerate(train))
    (folder / "reviews.csv").write_text(f"Review Text (EN);Stars\n{rated}")


@cache
def _models(*, decoder: bool, large: bool) -> dict[str, bytes]:
    """Make a tiny model with its tokenizer, and give the files of its checkpoint."""
    tokenizer = build_tokenizer(model_input_names=["input_ids", "attention_mask"]) if decoder else build_tokenizer()
    layers, heads, neurons = (6, 12, 1100) if large else (2, 4, 64)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 2 * heads if large else 16,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": neurons,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
    }
    torch.manual_seed(0)
    model: Any = (
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
        if decoder
        else transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))
    )
    with tempfile.TemporaryDirectory() as scratch:
        saved = checkpoint.write(model.eval(), Path(scratch) / "model", tokenizer=tokenizer)
        return {file.name: file.read_bytes() for file in saved.iterdir()}


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
