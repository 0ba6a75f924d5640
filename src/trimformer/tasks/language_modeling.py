"""Language modelling: how well a decoder predicts the next token of running text, by perplexity.

A split's rows are parts of one text. It is read token by token in windows of the context's length; `stride` below that
length lets windows overlap, so that more tokens are predicted from a long context: each token counts once.

Calibration takes the `train` file (of WikiText and Penn Treebank: split), or `valid` where a folder has no other;
results are on `test` where there is one, else on `valid`.

Source: Merity et al., WikiText (arXiv 1609.07843); Marcus et al., Penn Treebank, as Mikolov prepared it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.batches import tokens_at_once
from trimformer.data.columns import choose_columns, texts
from trimformer.data.encoding import length_limit
from trimformer.data.files import read_rows
from trimformer.data.hub import read_hub
from trimformer.data.rows import Batch, Features, Split
from trimformer.errors import DataError, InvalidOption, UnsupportedModel
from trimformer.judging.evaluation import outputs_by_row
from trimformer.judging.metrics import PERPLEXITY, Metrics
from trimformer.judging.statistics import Array, metric
from trimformer.model.limits import fitted
from trimformer.progress import Progress

CONTEXT = 1024
"""Tokens of a window unless said; fewer where the tokenizer or the model allows fewer."""
PASSAGE_CHARACTERS = 16_000
"""Characters that a row has at least: some windows of text that belongs together."""
SHARE_TO_JUDGE_BY = 0.2
"""Share of a single file, its last part, that a model is judged by."""
SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train", "valid", "validation"), "validation": ("test", "valid")}
"""Names of a folder's files by split, the preferred one first."""


@dataclass(frozen=True, kw_only=True)
class LanguageModeling:
    """The task of predicting one text, from the hub or from files."""

    description: str
    hub_name: str | None = None
    config: str | None = None
    stride: int | None = None
    """Tokens from the start of a window to that of the next; None for windows that do not overlap."""
    auto_class: str = "AutoModelForCausalLM"
    metrics: tuple[str, ...] = (PERPLEXITY,)

    def rows(self, source: str | None, split: Split) -> Dataset:
        """Read the passages of one split in the order of the text, in column `text`; together they are the whole text.

        Raises:
            DataError: no source, or one that cannot be read.
        """
        if source is not None:
            parts = _parts(Path(source), split)
        elif self.hub_name is None:
            raise DataError("this task has no text of its own: give a file or folder as `data`")
        else:
            rows = read_hub(self.hub_name, self.config, "test" if split == "validation" else split)
            parts = [f"{text}\n\n" for text in texts(rows, "text", self.hub_name)]
        passages = list(_passages(parts))
        if not passages:
            raise DataError(f"{source or self.hub_name} holds no text: give a file with some")
        return Dataset.from_dict({"text": passages})

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, *, labels: bool = False
    ) -> list[Features]:
        """Cut rows into windows that do not overlap; a row's last may be shorter. Labels are the tokens themselves.

        Raises:
            DataError: no text column, or one that holds something else than text.
        """
        length = length_limit(tokenizer, max_length, CONTEXT)
        (column,) = choose_columns(rows, [("text",)])
        features: list[Features] = []
        for text in texts(rows, column):
            for window in _windows(_tokens(text, tokenizer), _begin(tokenizer), length, length):
                given = {"input_ids": window.ids, "attention_mask": [1] * len(window.ids)}
                features.append({**given, "labels": window.ids} if labels else given)
        return features

    def evaluate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        *,
        dense: PreTrainedModel | None = None,
        max_length: int | None = None,
        progress: Progress | None = None,
    ) -> Metrics:
        """Judge a model by `perplexity` over all tokens of the rows taken together; its interval is over windows.

        Raises:
            DataError: rows without text, or fewer than two tokens.
            InvalidOption: a window that is longer than the model reads, or a stride outside 1 to its length.
            UnsupportedModel: a model that gives no logits for every token.
        """
        length = length_limit(fitted(tokenizer, model), max_length, CONTEXT)
        stride = self.stride or length
        if not 1 <= stride <= length:
            raise InvalidOption(f"stride={stride} is outside 1 to {length}, the length of a window")
        text = "".join(texts(rows, choose_columns(rows, [("text",)])[0]))
        windows = list(_windows(_tokens(text, tokenizer), _begin(tokenizer), length, stride))
        windows = [window for window in windows if window.new]
        if not windows:
            raise DataError("the text has fewer than two tokens: there is nothing to predict")
        features: list[Features] = [{"input_ids": window.ids} for window in windows]
        at_once = tokens_at_once(model)
        found = outputs_by_row(model, tokenizer, features, _read, progress=progress, max_padded_tokens=at_once)["loss"]
        counts = [window.new for window in windows]
        sums = [
            float(loss[: len(window.ids) - 1][-window.new :].double().sum())
            for loss, window in zip(found, windows, strict=True)
        ]
        return {PERPLEXITY: replace(metric(_perplexity, sums, counts), sample_size=sum(counts))}


@dataclass(frozen=True)
class _Window:
    """A window of a text: its tokens, of which the last `new` are predicted."""

    ids: list[int]
    new: int


def _windows(tokens: list[int], begin: list[int], length: int, stride: int) -> Iterator[_Window]:
    """Cut a text into windows of up to `length` tokens, each with the tokenizer's first token in front.

    A window's `new` tokens are those that no window before it had. Where the tokenizer puts no token in front, nothing
    predicts the first token of a text, nor that of any window if windows do not overlap.
    """
    room, seen = length - len(begin), 0
    for start in range(0, len(tokens), max(1, min(stride, room))):
        ids = tokens[start : start + room]
        end = start + len(ids)
        first = not begin and start == seen
        yield _Window(begin + ids, max(0, end - seen - first))
        seen = end
        if end == len(tokens):
            return


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _begin(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Find the token that the tokenizer puts before every text, as a list; empty where it puts none."""
    first: list[int] = tokenizer("")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def _read(output: Any, batch: Batch) -> dict[str, Tensor]:
    """Compute the negative log-probability of every token but the first, in nats: `(batch, length − 1)`."""
    logits = getattr(output, "logits", None)
    if logits is None or logits.shape[:2] != batch["input_ids"].shape:
        raise UnsupportedModel("perplexity needs a model that predicts every next token: load a causal language model")
    scores, targets = logits[:, :-1].float(), batch["input_ids"][:, 1:, None]
    return {"loss": scores.logsumexp(-1) - scores.gather(-1, targets)[..., 0]}


def _perplexity(*columns: Array, axis: int = -1) -> Array:
    """Compute `exp(Σ loss / Σ tokens)` of windows, at most the largest float64."""
    losses, counts = columns
    mean = np.sum(losses, axis=axis, dtype=np.float64) / np.sum(counts, axis=axis)
    return np.asarray(np.exp(np.minimum(mean, np.log(np.finfo(np.float64).max))))


def _parts(source: Path, split: Split) -> list[str]:
    """Read a split's text in parts, such as lines, that together are the whole of it."""
    if not source.is_dir():
        parts = _parts_of_file(source)
        to_calibrate = len(parts) - max(1, round(SHARE_TO_JUDGE_BY * len(parts)))
        if not to_calibrate:
            raise DataError(f"{source} has one line: give a longer text, or a folder with a train and a test file")
        return parts[:to_calibrate] if split == "train" else parts[to_calibrate:]
    files = {split: _file(source, names) for split, names in SPLITS.items()}
    for name, file in files.items():
        if file is None or file == files["train" if name == "validation" else "validation"]:
            raise DataError(
                f"{source} needs a file to calibrate on, train or valid, and another to judge by, test or valid"
            )
    return _parts_of_file(files[split])  # type: ignore[arg-type]  # none is missing


def _file(folder: Path, stems: Sequence[str]) -> Path | None:
    return next((file for stem in stems for file in sorted(folder.glob(f"{stem}.*"))), None)


def _parts_of_file(file: Path) -> list[str]:
    if file.suffix.lower() == ".txt" and file.exists():
        try:
            return file.read_text(encoding="utf-8-sig").splitlines(keepends=True)
        except (UnicodeDecodeError, OSError) as error:
            raise DataError(f"cannot read {file}: {error}; save it as UTF-8 text") from error
    rows = read_rows(str(file), "train")
    return [f"{text}\n\n" for text in texts(rows, choose_columns(rows, [("text",)], str(file))[0], str(file))]


def _passages(parts: Sequence[str]) -> Iterator[str]:
    """Join neighbouring parts until they are long enough; the last may be shorter. Empty ones join their neighbours."""
    ends, total = [0], 0
    for number, part in enumerate(parts, start=1):
        total += len(part)
        if total >= PASSAGE_CHARACTERS or number == len(parts):
            ends.append(number)
            total = 0
    for start, end in pairwise(ends):
        if passage := "".join(parts[start:end]):
            yield passage


WIKITEXT = "Salesforce/wikitext"

PROVIDES = {
    "language_modeling": LanguageModeling(description="your own text: perplexity of the next token"),
    "wikitext2": LanguageModeling(
        description="WikiText-2: perplexity of the next token", hub_name=WIKITEXT, config="wikitext-2-raw-v1"
    ),
    "wikitext103": LanguageModeling(
        description="WikiText-103: perplexity of the next token", hub_name=WIKITEXT, config="wikitext-103-raw-v1"
    ),
    "ptb": LanguageModeling(description="Penn Treebank: perplexity of the next token"),
}
