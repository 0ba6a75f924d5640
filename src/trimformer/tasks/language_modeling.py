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
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

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
from trimformer.judging import statistics
from trimformer.judging.continuation import beginning, log_probabilities, tokens
from trimformer.judging.evaluation import inference, outputs_by_row
from trimformer.judging.metrics import PERPLEXITY, Metrics
from trimformer.judging.statistics import metric
from trimformer.model.limits import fitted
from trimformer.model.offload import device_of
from trimformer.progress import Progress

CONTEXT = 1024
"""Tokens of a window unless said; fewer where the tokenizer or the model allows fewer."""
PASSAGE_CHARACTERS = 16_000
"""Characters that a row has at least: some windows of text that belongs together."""
LOGITS_OF_TWO = 6
"""Tensors of the size of the logits that are there at once while two models are compared; of one there are two."""
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
    metrics: tuple[str, ...] = (PERPLEXITY, "kl")

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
            parts = [f"{text}\n\n" for text in texts(rows, "text")]
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
            for window in _windows(tokens(text, tokenizer), beginning(tokenizer), length, length):
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

        With `dense`, `kl` is the mean divergence from its predictions of the same tokens, in nats; 0 for itself.

        Raises:
            DataError: rows without text, or fewer than two tokens.
            InvalidOption: a window that is longer than the model reads, or a stride outside 1 to its length.
            UnsupportedModel: a model that gives no logits for every token, or for others than the dense model's.
        """
        length = length_limit(fitted(tokenizer, model), max_length, CONTEXT)
        stride = self.stride or length
        if not 1 <= stride <= length:
            raise InvalidOption(f"`stride={stride}` is outside 1 to {length}, the length of a window")
        text = "".join(texts(rows, choose_columns(rows, [("text",)])[0]))
        windows = list(_windows(tokens(text, tokenizer), beginning(tokenizer), length, stride))
        windows = [window for window in windows if window.new]
        if not windows:
            raise DataError("the text has fewer than two tokens: there is nothing to predict")
        features: list[Features] = [{"input_ids": window.ids} for window in windows]
        other = None if dense is model else dense
        at_once = max(1, tokens_at_once(model) // (2 if other is None else LOGITS_OF_TWO))
        with inference(*filter(None, [other])):
            found = outputs_by_row(
                model, tokenizer, features, partial(_read, other), progress=progress, max_padded_tokens=at_once
            )
        counts = [window.new for window in windows]
        judged = {PERPLEXITY: metric(statistics.perplexity, _sums(found["loss"], windows), counts)}
        if dense is not None:
            sums = _sums(found["kl"], windows) if other else [0.0] * len(windows)
            judged["kl"] = metric(statistics.ratio, sums, counts)
        return {name: replace(value, sample_size=sum(counts)) for name, value in judged.items()}


@dataclass(frozen=True)
class _Window:
    """A window of a text: its tokens, of which the last `new` are predicted."""

    ids: list[int]
    new: int


def _windows(text: list[int], begin: list[int], length: int, stride: int) -> Iterator[_Window]:
    """Cut a text into windows of up to `length` tokens, each with the tokenizer's first token in front.

    A window's `new` tokens are those that no window before it had. Where the tokenizer puts no token in front, nothing
    predicts the first token of a text, nor that of any window if windows do not overlap.
    """
    room, seen = length - len(begin), 0
    for start in range(0, len(text), max(1, min(stride, room))):
        ids = text[start : start + room]
        end = start + len(ids)
        first = not begin and start == seen
        yield _Window(begin + ids, max(0, end - seen - first))
        seen = end
        if end == len(text):
            return


def _read(dense: PreTrainedModel | None, output: Any, batch: Batch) -> dict[str, Tensor]:
    """Compute the negative log-probability of every token but the first, in nats: `(batch, length − 1)`.

    With a dense model also the `kl` divergence of the predictions of these tokens from its own.
    """
    scores, targets = log_probabilities(output, batch), batch["input_ids"][:, 1:, None]
    found = {"loss": -scores.gather(-1, targets)[..., 0]}
    if dense is not None:
        there = {name: values.to(device_of(dense)) for name, values in batch.items()}
        expected = log_probabilities(dense(**there), there).to(scores.device)
        if expected.shape != scores.shape:
            raise UnsupportedModel(
                f"the dense model knows {expected.shape[-1]} tokens, the pruned one {scores.shape[-1]}: "
                "give the dense model that the pruned one was made of"
            )
        found["kl"] = (expected.exp() * (expected - scores)).sum(-1).clamp(min=0)
    return found


def _sums(found: Sequence[Tensor], windows: Sequence[_Window]) -> list[float]:
    """Add up a number of every token over those that each window has new."""
    return [
        float(values[: len(window.ids) - 1][-window.new :].double().sum())
        for values, window in zip(found, windows, strict=True)
    ]


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
    return [f"{text}\n\n" for text in texts(rows, choose_columns(rows, [("text",)])[0])]


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
