"""Whatever the user has -> padded batches of model inputs; labels are left out unless they are asked for."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from trimformer.data.batches import Padding, make_batches, real_by_id, sample_rows
from trimformer.data.encoding import DEFAULT_MAX_LENGTH, encode_texts
from trimformer.data.labels import require_labels
from trimformer.data.rows import LABELS, MODEL_INPUTS, TOKEN_MASK, TOKENS, Batch, Features, choices
from trimformer.data.tables import Column, Table, as_table, names_of, rows_of, text_columns
from trimformer.errors import DataError, InvalidOption, LabelError, caution

Data: TypeAlias = Sequence[str] | Sequence[Features] | Dataset | Iterable[Batch] | Table
"""Texts, pairs, encoded rows or batches, or what has columns of them: frames, datasets, dictionaries of lists."""
WHAT_TO_GIVE = "give a list of texts, a frame or Dataset with a column of text, encoded rows, or batches"
MISSING_KINDS = ("NAType", "NaTType")
"""Classes of what pandas has in the place of a value that is missing."""


def calibration_batches(
    data: Data,
    tokenizer: PreTrainedTokenizerBase | None,
    tokens: int | None,
    seed: int,
    device: torch.device,
    *,
    labels: bool = False,
    column: Column = None,
    padding: Padding | None = None,
    choose: Callable[[Sequence[Features]], int | None] | None = None,
    warn: Callable[[str], None] = caution,
) -> list[Batch]:
    """Turn whatever the user has into padded batches on the model's device, with `LABELS` only if `labels` is set.

    Texts and encoded rows are drawn until they hold `tokens` tokens, or all taken if that is None; batches are taken as
    they come. Texts that are blank or missing are left out, as is padding that no mask names; `warn` is told how many.

    Args:
        data: texts, pairs, encoded rows or batches, or what has columns of them.
        tokenizer: for texts, and for the padding id.
        tokens: to draw.
        seed: of drawing.
        device: of the tensors.
        labels: whether to keep them.
        column: name of the column of text, or of two for pairs, where the data has columns that nobody can tell.
        padding: the model's padding id, for rows without a mask where there is no tokenizer.
        choose: says by the rows how many tokens to draw, in place of `tokens`, which a stream is read until.
        warn: is given a line for whatever was left out.

    Raises:
        DataError: no rows, rows that are neither text nor encoded, or too few of them.
        InvalidOption: `column` is no name, or the data has no columns.
        LabelError: labels were asked for, and a row has none.
    """
    names_of(column)
    entries = _entries(data, column, tokens, labels=labels)
    if not entries:
        raise DataError("no calibration rows: the data is empty; give at least one row")
    padding = Padding.of(tokenizer) or padding
    batches = [entry for entry in entries if _is_batch(entry)]
    if batches:
        if len(batches) < len(entries):
            raise DataError("some of the data are padded batches, some are not: give batches only, or rows only")
        given = [_given_batch(batch, device, padding, labels=labels) for batch in batches]
        _tell_padding([TOKENS in batch and TOKEN_MASK not in batch for batch in batches], given, warn)
        return given
    rows = _encoded_rows(entries, tokenizer, column, warn, labels=labels)
    real = [_without_padding(_named(row), number, padding) for number, row in enumerate(rows, start=1)]
    shorter = sum(
        len(choices(r)[0]) < len(choices(g)[0]) and TOKEN_MASK not in g for g, r in zip(rows, real, strict=True)
    )
    if shorter:
        warn(f"{shorter} rows without {TOKEN_MASK} have padding (id {padding and padding.id}): it is left out")
    if labels:
        require_labels(real)
    wanted = choose(real) if choose else tokens
    drawn = real if wanted is None else sample_rows(real, wanted, seed)
    return make_batches(drawn, tokenizer, device, labels=labels)


def _entries(data: Any, column: Column, tokens: int | None, *, labels: bool) -> list[Any]:
    """List what the user gave: texts, pairs, rows or batches.

    Raises:
        DataError: it is nothing of the kind.
        InvalidOption: `column` is said, and there are no columns.
    """
    _check_kind(data)
    if isinstance(data, Mapping) and _is_batch(data):
        return [data]
    table = as_table(data)
    if table is not None:
        if labels and TOKENS not in table:
            raise LabelError(f"a text column comes without labels: encode the rows, with {TOKENS} and labels")
        return list(rows_of(table, column)) if table else []
    if isinstance(data, DataLoader):
        return _of_loader(data, column)
    entries = list(_enough(data, tokens)) if isinstance(data, (IterableDataset, Iterator)) else list(data)
    if column is not None and entries and not isinstance(entries[0], Mapping):
        raise InvalidOption(f"`column={column!r}` names a column, and this data has none: leave it out")
    return entries


def _check_kind(data: Any) -> None:
    """Refuse what holds no rows, or what would be taken for something that it is not."""
    told = reprlib.repr(data) if isinstance(data, (str, bytes, Path, int, float, bool)) else type(data).__name__
    if isinstance(data, (str, bytes, Path)):
        raise DataError(f"data is {told}, not a list: give a list of texts; files are read by the command line")
    if isinstance(data, (DatasetDict, IterableDatasetDict)):
        first = next(iter(data), "train")
        raise DataError(
            f"data is a {told} with the splits {', '.join(map(str, data))}: give one of them, data[{first!r}]"
        )
    if isinstance(data, (set, frozenset)):
        raise DataError(f"data is a {told}, whose order changes from run to run: give a list, sorted(data)")
    holds_rows = any(hasattr(data, name) for name in ("__iter__", "__getitem__", "column_names", "collect"))
    if isinstance(data, (Tensor, nn.Module, PreTrainedTokenizerBase, type)) or not holds_rows:
        raise DataError(f"data is {'None' if data is None else f'of the kind {told}'}: {WHAT_TO_GIVE}")


def _enough(data: Iterable[Any], tokens: int | None) -> Iterator[Any]:
    """Read entries of a stream, in its order, until they surely hold so many tokens: a word is at least one."""
    words = 0
    for entry in data:
        yield entry
        words += _fewest_tokens(entry)
        if tokens is not None and words >= tokens:
            return


def _fewest_tokens(entry: Any) -> int:
    """Count the tokens that a text, a pair, a row or a batch has at the least."""
    if isinstance(entry, Mapping) and TOKENS in entry:
        ids = entry[TOKENS]
        return ids.numel() if isinstance(ids, Tensor) else len(ids)
    texts = entry.values() if isinstance(entry, Mapping) else entry if isinstance(entry, (list, tuple)) else [entry]
    return min(DEFAULT_MAX_LENGTH // 2, sum(len(text.split()) for text in texts if isinstance(text, str)))


def _of_loader(data: Iterable[Any], column: Column) -> list[Any]:
    """List the batches of a DataLoader, or the rows in them, where its collate function left texts as they are."""
    try:
        batches = list(data)
    except (RuntimeError, TypeError) as error:  # of PyTorch's own collate function, on rows of different length
        told = " ".join(str(error).split())[:120]
        raise DataError(f"the DataLoader makes no batches ({told}): give it a collate_fn that pads") from error
    found: list[Any] = []
    for batch in batches:
        if isinstance(batch, Mapping):
            stacked = _stacked(batch)
            found += [stacked] if _is_batch(stacked) else rows_of(as_table(stacked) or {}, column)
        elif isinstance(batch, (list, tuple)) and all(isinstance(entry, (str, Mapping)) for entry in batch):
            found += batch
        else:
            kinds = type(batch[0] if isinstance(batch, (list, tuple)) and batch else batch).__name__
            raise DataError(f"a batch of the DataLoader has no names, only {kinds}: let it give {{'{TOKENS}': …}}")
    return found


def _stacked(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make `(rows, length)` of lists of tensors, which PyTorch's own collate function makes of rows that are lists."""
    lists = [name for name, values in batch.items() if isinstance(values, list) and isinstance(values[0], Tensor)]
    return {name: torch.stack(values, 1) if name in lists else values for name, values in batch.items()}


def _is_batch(row: Any) -> bool:
    """Tell whether an entry is a padded batch: tensors whose first axis is the rows'."""
    if not isinstance(row, Mapping):
        return False
    inputs = row.get(TOKENS, next((values for name, values in row.items() if name not in LABELS), None))
    return isinstance(inputs, Tensor) and inputs.ndim > 1


def _encoded_rows(
    entries: list[Any],
    tokenizer: PreTrainedTokenizerBase | None,
    column: Column,
    warn: Callable[[str], None],
    *,
    labels: bool,
) -> list[Features]:
    """Give encoded rows as they are, and texts encoded.

    Raises:
        DataError: an entry is neither, or of another kind than the first.
        LabelError: labels were asked for, and these are texts.
    """
    first = next((entry for entry in entries if not _is_missing(entry)), None)
    if isinstance(first, Mapping):
        for number, entry in enumerate(entries, start=1):
            if not isinstance(entry, Mapping) or (TOKENS in first) != (TOKENS in entry):
                raise DataError(f"row {number} of data is {reprlib.repr(entry)}, and the first has other columns")
        if TOKENS in first and column is None:
            for number, entry in enumerate(entries, start=1):
                _check_ids(entry, number)
            return entries
        names = text_columns({str(name): value for name, value in first.items()}, column)
        entries = [row.get(names[0]) if len(names) == 1 else tuple(map(row.get, names)) for row in entries]
    texts = _texts(entries, warn)
    if labels:
        raise LabelError(f"texts come without labels: encode the rows, with {TOKENS} and labels")
    if tokenizer is None:
        raise DataError("data given as text needs a tokenizer: prune(…, tokenizer=tokenizer)")
    return encode_texts([list(part) for part in zip(*texts, strict=True)], tokenizer)


def _texts(entries: Sequence[Any], warn: Callable[[str], None]) -> list[tuple[str, ...]]:
    """Give texts, each alone or in a pair, without those that are blank or missing.

    Raises:
        DataError: something else is among them, or nothing is left.
    """
    kept, parts_each = (
        [],
        {len(entry) if isinstance(entry, tuple) else 1 for entry in entries if not _is_missing(entry)},
    )
    for number, entry in enumerate(entries, start=1):
        parts = entry if isinstance(entry, tuple) else (entry,)
        if (
            len(parts_each) > 1
            or not 1 <= len(parts) <= 2
            or not all(isinstance(p, str) or _is_missing(p) for p in parts)
        ):
            raise DataError(f"row {number} of data is {reprlib.repr(entry)}, not text: {WHAT_TO_GIVE}")
        if all(isinstance(part, str) for part in parts) and any(part.strip() for part in parts):
            kept.append(tuple(map(str, parts)))
    if not kept:
        raise DataError(f"all {len(entries)} texts are blank or missing: give at least one with words")
    if len(kept) < len(entries):
        warn(f"{len(entries) - len(kept)} of {len(entries)} texts are blank or missing: they are left out")
    return kept


def _is_missing(value: Any) -> bool:
    """Tell whether something stands for no value: None, NaN, or what pandas has for them."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in MISSING_KINDS


def _check_ids(row: Features, number: int) -> None:
    """Refuse an encoded row whose tokens are no whole numbers from 0 up, or that has not one entry a token."""
    where = f"row {number} of data"
    if not hasattr(row[TOKENS], "__len__") or isinstance(row[TOKENS], str):
        raise DataError(f"{where} has {TOKENS}={reprlib.repr(row[TOKENS])}: give a list of whole numbers")
    for ids in choices(row):
        try:
            given = torch.as_tensor(ids)
        except (TypeError, ValueError, RuntimeError):
            given = torch.tensor([0.5])
        if len(ids) and (given.is_floating_point() or given.is_complex() or bool((given < 0).any())):
            raise DataError(f"{where} has {TOKENS}={reprlib.repr(ids)}: give whole numbers from 0 up")


def _named(row: Features) -> Features:
    """Call a row's `label`, as a Dataset has it, `labels`, as models do."""
    return {**row, LABELS[0]: row["label"]} if "label" in row and LABELS[0] not in row else row


def _given_batch(batch: Mapping[str, Any], device: torch.device, padding: Padding | None, *, labels: bool) -> Batch:
    given = _named(batch)
    tensors = {name: values for name, values in given.items() if isinstance(values, Tensor)}
    inputs = {name: values.to(device) for name, values in tensors.items() if labels or name not in LABELS}
    if labels and not set(LABELS) & set(inputs):
        raise LabelError(f"a batch is unlabelled: give every batch {LABELS[0]}, or {' and '.join(LABELS[1:])}")
    if TOKENS in inputs:
        ids = inputs[TOKENS]
        if TOKEN_MASK not in inputs:
            inputs[TOKEN_MASK] = (torch.ones_like(ids) if padding is None else real_by_id(ids, padding)).long()
        if inputs[TOKEN_MASK].shape != ids.shape:
            shapes = " and ".join(f"{name} {tuple(inputs[name].shape)}" for name in (TOKENS, TOKEN_MASK))
            raise DataError(f"a batch has {shapes}: give one number a token in both")
        if ids.is_floating_point() or ids.dtype is torch.bool:
            raise DataError(f"a batch has {TOKENS} of type {ids.dtype}: give whole numbers, torch.long")
    if TOKEN_MASK in inputs and not bool(inputs[TOKEN_MASK].flatten(1).any(1).all()):
        raise DataError("a calibration row is all padding: leave it out")
    return inputs


def _tell_padding(unmasked: Sequence[bool], batches: Sequence[Batch], warn: Callable[[str], None]) -> None:
    """Say of how many rows without a mask padding was left out."""
    found = [batch[TOKEN_MASK] for batch, was in zip(batches, unmasked, strict=True) if was]
    shorter = sum(int((~mask.bool().flatten(1).all(1)).sum()) for mask in found)
    if shorter:
        warn(f"{shorter} rows without {TOKEN_MASK} have padding: it is left out")


def _without_padding(row: Features, number: int = 1, padding: Padding | None = None) -> Features:
    if len(choices(row)) > 1:
        return _choices_without_padding(row, number, padding)
    ids, mask = row[TOKENS], row.get(TOKEN_MASK)
    for name in MODEL_INPUTS:
        if name in row and len(row[name]) != len(ids):
            raise DataError(
                f"row {number}: a row has {len(ids)} {TOKENS}, but {len(row[name])} in {name}: give as many"
            )
    if mask is None and padding is not None and len(ids):
        mask = real_by_id(torch.as_tensor(ids), padding).tolist()
    if not len(ids) or (mask is not None and not any(mask)):
        raise DataError(f"calibration row {number} has no tokens, or is all padding: leave it out")
    if mask is None or all(mask):
        return row
    by_token = {name: row[name] for name in MODEL_INPUTS if name in row}
    labels = {name: row[name] for name in LABELS if name in row}
    by_token |= {
        name: values for name, values in labels.items() if isinstance(values, list) and len(values) == len(mask)
    }
    real = {n: [value for value, real in zip(values, mask, strict=True) if real] for n, values in by_token.items()}
    return labels | real


def _choices_without_padding(row: Features, number: int, padding: Padding | None) -> Features:
    """Take the padding out of every choice of a row; what it has beside its inputs stays."""
    names = [name for name in MODEL_INPUTS if name in row]
    every = [
        _without_padding(dict(zip(names, values, strict=True)), number, padding)
        for values in zip(*(choices(row, name) for name in names), strict=True)
    ]
    return dict(row) | {name: [choice[name] for choice in every] for name in names}
