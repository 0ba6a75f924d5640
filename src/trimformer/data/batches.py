"""Encoded rows -> padded batches of rows of like length, so that hardly anything is computed on padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.labels import pad_labels
from trimformer.data.rows import MODEL_INPUTS, TOKEN_MASK, TOKENS, Batch, Features, choices, token_count
from trimformer.errors import DataError

MAX_ROWS = 32
MAX_PADDED_TOKENS = 8192
LOGITS_AT_ONCE = 2**27


def sample_rows(features: Sequence[Features], tokens: int, seed: int) -> list[Features]:
    """Draw rows at random, without replacement, until they hold at least `tokens` tokens.

    Raises:
        DataError: there are no rows, or all of them together hold fewer tokens.
    """
    if not features:
        raise DataError("no calibration rows: the data is empty; give a file or folder with at least one row")
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: list[Features] = []
    total = 0
    for index in order:
        chosen.append(features[index])
        total += token_count(features[index])
        if total >= tokens:
            return chosen
    raise DataError(
        f"{tokens} calibration tokens asked, but the {len(features)} calibration rows hold {total}: "
        f"ask for at most `calibration_tokens={total}`, or give more rows"
    )


def length_sorted_indices(
    features: Sequence[Features], *, max_rows: int = MAX_ROWS, max_padded_tokens: int = MAX_PADDED_TOKENS
) -> list[list[int]]:
    """Group row indices into batches, longest rows first, of each number of choices those first: so memory peaks early.

    A batch has at most `max_rows` rows and `max_padded_tokens` tokens, padding included, or it is a single row. In
    multiple choice its rows have as many choices each.
    """
    lengths, counts = [token_count(row) for row in features], [len(choices(row)) for row in features]
    order = sorted(range(len(features)), key=lambda index: (counts[index], -lengths[index]))
    batches: list[list[int]] = []
    for index in order:
        first = batches[-1][0] if batches else None
        if (
            first is None
            or counts[first] != counts[index]
            or len(batches[-1]) >= min(max_rows, max(1, max_padded_tokens // lengths[first]))
        ):
            batches.append([])
        batches[-1].append(index)
    return batches


def pad(rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase | None, device: torch.device | str) -> Batch:
    """Make tensors of some rows, padded at the right whatever the tokenizer's own side.

    They are `(rows, length)` each; in multiple choice `(rows, choices, length)`, with as many choices in every row.

    Encoders count positions from the left and classify by the first token: padding there would change what they say.
    Padding ids come from the tokenizer; without one they are zero, which the attention mask hides from the model.
    """
    fill = {TOKENS: 0 if tokenizer is None else (tokenizer.pad_token_id or 0)}
    names = [name for name in MODEL_INPUTS if name in rows[0]]
    columns = {
        name: [torch.as_tensor(values, dtype=torch.long) for row in rows for values in choices(row, name)]
        for name in names
    }
    columns.setdefault(TOKEN_MASK, [torch.ones_like(ids) for ids in columns[TOKENS]])
    padded = {
        name: pad_sequence(values, batch_first=True, padding_value=fill.get(name, 0)).to(device)
        for name, values in columns.items()
    }
    if len(choices(rows[0])) == 1:
        return padded
    return {name: values.unflatten(0, (len(rows), -1)) for name, values in padded.items()}


def tokens_at_once(model: PreTrainedModel) -> int:
    """Limit the padded tokens of a batch: fewer in language models, which give a vocabulary of logits for each."""
    if model.get_output_embeddings() is None:
        return MAX_PADDED_TOKENS
    return max(1, min(MAX_PADDED_TOKENS, LOGITS_AT_ONCE // int(model.config.vocab_size)))


def rows_at_once(model: PreTrainedModel, length: float) -> int:
    """Choose how many rows of `length` tokens to measure time on: 32, or as many as a batch may hold."""
    return max(1, min(MAX_ROWS, tokens_at_once(model) // round(length)))


def split_batches(batches: Sequence[Batch], max_padded_tokens: int) -> list[Batch]:
    """Split batches into parts of at most `max_padded_tokens`, or of one row; the order of rows stays."""
    parts: list[Batch] = []
    for batch in batches:
        rows = shape(batch)[0]
        size = max(1, max_padded_tokens * rows // padded_tokens(batch))
        parts += [{n: values[start : start + size] for n, values in batch.items()} for start in range(0, rows, size)]
    return parts


def every(batches: Sequence[Batch], count: int) -> list[Batch]:
    """Give the first of every so many rows, however they are batched.

    >>> [batch["x"].tolist() for batch in every([{"x": torch.tensor([1, 2])}, {"x": torch.tensor([3, 4, 5])}], 2)]
    [[1], [3, 5]]
    """
    parts: list[Batch] = []
    before = 0
    for batch in batches:
        rows = len(next(iter(batch.values())))
        chosen = slice(-before % count, rows, count)
        before += rows
        parts += [{name: values[chosen].contiguous() for name, values in batch.items()}] if chosen.start < rows else []
    return parts


def make_batches(
    features: Sequence[Features],
    tokenizer: PreTrainedTokenizerBase | None,
    device: torch.device | str,
    *,
    labels: bool = False,
) -> list[Batch]:
    """Make length-sorted, padded batches of all rows; with `labels`, their labels are among the tensors."""
    chosen = [[features[index] for index in indices] for indices in length_sorted_indices(features)]
    return [pad(rows, tokenizer, device) | (pad_labels(rows, device) if labels else {}) for rows in chosen]


def only(batches: Sequence[Batch], names: Sequence[str]) -> list[Batch]:
    """Leave out of every batch all tensors but those named."""
    return [{name: values for name, values in batch.items() if name in names} for batch in batches]


def shape(batch: Batch) -> tuple[int, int]:
    """Give the rows of a batch and the padded length of their sequences, by its token mask or else its first tensor."""
    known = batch.get(TOKEN_MASK)
    if known is not None:
        return known.shape[0], known.shape[-1]
    first = next(iter(batch.values()))
    return first.shape[0], first.shape[1]


def token_mask(batch: Batch, name: str = TOKEN_MASK) -> Tensor:
    """Tell which tokens are real and which padding, as a model's blocks see them: bool `(batch, length)`, True = real.

    In multiple choice `(batch * choices, length)`.
    """
    return batch[name].bool().flatten(0, -2)


@dataclass(frozen=True)
class Padding:
    """The id that rows are padded with."""

    id: int
    ends_texts: bool
    """Whether a text may begin or end with that token as well, as GPT-2's do where people pad with it."""

    @classmethod
    def of(cls, known: Any) -> Padding | None:
        """Read it off a tokenizer or a config; None where it is not known."""
        own = getattr(known, "pad_token_id", None)
        others = [getattr(known, f"{name}_token_id", None) for name in ("bos", "eos", "cls", "sep")]
        ends = [index for other in others for index in (other if isinstance(other, list) else [other])]
        return cls(own, own in ends) if isinstance(own, int) else None


def real_by_id(ids: Tensor, padding: Padding) -> Tensor:
    """Tell tokens from padding where no mask does, by runs of its id at both ends of a row: bool, True = real.

    Where texts may end with that token as well, one of each run counts as theirs.

    >>> real_by_id(torch.tensor([5, 0, 6, 0, 0]), Padding(0, ends_texts=False)).tolist()
    [True, True, True, False, False]
    """
    same = (ids == padding.id).long()
    left, right = same.cumprod(-1), same.flip(-1).cumprod(-1).flip(-1)
    if padding.ends_texts:
        left, right = left * left.roll(-1, -1), right * right.roll(1, -1)
        left[..., -1], right[..., 0] = 0, 0
    return (left + right) == 0


def sequence_count(batch: Batch) -> int:
    """Count the sequences that a model reads of a batch: its rows, or their choices."""
    return batch[TOKEN_MASK].shape[:-1].numel() if TOKEN_MASK in batch else shape(batch)[0]


def device_of_batch(batch: Batch) -> torch.device:
    """Give the device that a batch is on."""
    return next(iter(batch.values())).device


def real_tokens(batches: Sequence[Batch]) -> int:
    """Count the tokens of some batches, padding excluded."""
    return int(sum(batch[TOKEN_MASK].sum() for batch in batches))


def padded_tokens(batch: Batch) -> int:
    """Count the tokens of a batch, padding included."""
    return sequence_count(batch) * shape(batch)[1]


def row_seeds(batch: Batch, seed: int) -> list[int]:
    """Derive a seed for every row from `seed` and the row's own tokens alone, not from padding or neighbours.

    Where the first input has no number for each token, the whole row counts, padding included.
    """
    content = batch.get(TOKENS, next(iter(batch.values()))).cpu()
    if content.shape != batch[TOKEN_MASK].shape:
        return [crc32(values.contiguous().numpy().tobytes(), seed) for values in content]
    masks = batch[TOKEN_MASK].bool().cpu()
    return [crc32(values[mask].numpy().tobytes(), seed) for values, mask in zip(content, masks, strict=True)]


def random_batch(config: Any, workload: Workload, device: torch.device | str, *, of_choices: bool = False) -> Batch:
    """Make a batch of random tokens without padding, to measure time on: `(batch_size, sequence_length)` each.

    Or, for a model that chooses, `(batch_size, 1, sequence_length)`: rows of one choice each.
    """
    shape = (workload.batch_size, *((1,) * of_choices), round(workload.sequence_length))
    ids = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)
    return {TOKENS: ids, TOKEN_MASK: torch.ones_like(ids)}


@dataclass(frozen=True)
class Workload:
    """The use of a model that its cost is counted or measured for: sequences of a length, so many at once."""

    sequence_length: float
    """Mean number of tokens of a sequence."""
    batch_size: int = 32
    precision: str | None = None
    """Precision that the weights are stored in, such as `float16`, where it is another than they have in memory."""

    @property
    def stored_dtype(self) -> torch.dtype | None:
        """The same as PyTorch names it."""
        dtype: torch.dtype | None = None if self.precision is None else getattr(torch, self.precision)
        return dtype
