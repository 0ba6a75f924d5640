"""Rows from a file, a folder or a dataset, checked on the way in.

A folder holds one file a split, named `train` and `validation` (or `valid`, `dev`), or is a dataset that was saved by
`save_to_disk`. A single file, or a folder with only one of the two, serves both splits: then `read_split` cuts it so
that no calibration row is an evaluation row. Anything else that looks like one, `owner/name`, is a dataset on the hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import datasets
import numpy as np
import pyarrow.compute as pc  # type: ignore[import-untyped]  # pyarrow ships no types
from datasets import ClassLabel, Dataset, DatasetDict

from trimformer.data.columns import TEXT_COLUMNS, choose_columns, located, place_of, renamed, select_rows, texts
from trimformer.data.hub import read_hub, splits_on_hub
from trimformer.data.readers import ENDINGS, READERS, ending_of, read_table
from trimformer.data.rows import Split
from trimformer.errors import DataError, reading

FILE_STEMS: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("validation", "valid", "dev")}
VALIDATION_SHARE = 0.2
ON_HUB = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")
"""A dataset on the hub: `owner/name`, or `owner/name:config`."""


class _Place(NamedTuple):
    """A place where the rows of a split are: its name for messages, and what reads them."""

    name: str
    read: Callable[[], Dataset]


def read_rows(source: str, split: Split) -> Dataset:
    """Read all rows of what serves a split: `source` itself if it is a file, whichever split is asked.

    Columns are called as `naming_columns` says.

    Raises:
        DataError: no such file, an unknown ending, several files for one split, a damaged file, no rows, or a column
            that is to be called otherwise is not there.
    """
    return _rows_at(_place(source, split))


def _rows_at(place: _Place) -> Dataset:
    rows = located(place.read(), place.name)
    if len(rows) == 0:
        raise DataError(f"no rows in {place.name}: give a file with at least one row")
    _check_classes(rows)
    return renamed(rows)


def _check_classes(rows: Dataset) -> None:
    """Refuse numbers of classes that a dataset's own names do not reach; -1 stands for no label."""
    for column, feature in rows.features.items():
        if isinstance(feature, ClassLabel) and (found := rows.data.column(column).drop_null()):
            low, high = (reduce(found).as_py() for reduce in (pc.min, pc.max))
            if not -1 <= low <= high < len(feature.names):
                named = len(feature.names)
                raise DataError(
                    f"{place_of(rows)}: {column!r} has the numbers {low} to {high}, and names {named} classes: "
                    "mend the numbers, or what the file says of its columns"
                )


def read_split_of_text(source: str | None, split: Split, task: str) -> Dataset:
    """Read one split of a task that has nothing but text; rows without any are left out.

    Raises:
        DataError: no source, rows that cannot be read, have no text column, or are all empty.
    """
    if source is None:
        raise DataError(f"the {task} task has no rows of its own: give a file or folder of text as `data`")
    rows = read_split(source, split)
    columns = [texts(rows, name) for name in choose_columns(rows, TEXT_COLUMNS)]
    kept = [index for index, values in enumerate(zip(*columns, strict=True)) if any(map(str.strip, values))]
    if not kept:
        raise DataError(f"all rows of {source} are empty: give rows with text")
    return select_rows(rows, kept)


def read_split(source: str, split: Split, seed: int = 0) -> Dataset:
    """Read the rows of one split; where one file serves both, no row is in the other split too.

    Two files are taken as they are; one file is divided by `split_rows`, so that asking for `train` and for
    `validation` never gives the same row.

    Raises:
        DataError: as `read_rows` and `split_rows`.
    """
    places = {name: _place(source, name) for name in get_args(Split)}
    rows = _rows_at(places[split])
    if len({place.name for place in places.values()}) > 1:
        return rows
    try:
        return split_rows(rows, seed)[split]
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def split_rows(rows: Dataset, seed: int = 0) -> dict[Split, Dataset]:
    """Divide rows at random into 80 % train and 20 % validation (at least one row each).

    The same rows and seed give the same division. A row that occurs several times never lies on both sides: train
    rows that equal a validation row are dropped.

    Raises:
        DataError: fewer than two distinct rows.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    validation = order[: max(1, round(VALIDATION_SHARE * len(rows)))]
    contents = [json.dumps(row, default=str) for row in rows]
    held_out = {contents[index] for index in validation}
    train = [index for index in order if contents[index] not in held_out]
    if not train:
        raise DataError(
            f"{len(rows)} rows cannot serve both calibration and evaluation: no distinct rows are left for "
            "calibration; give more rows, or a folder with a train and a validation file"
        )
    return {"train": select_rows(rows, sorted(train)), "validation": select_rows(rows, sorted(validation))}


def some_rows(rows: Dataset, count: int | None) -> Dataset:
    """Draw as many rows, the same ones every time, and leave them in their order; None, or too many, takes all."""
    if count is None or count >= len(rows):
        return rows
    return select_rows(rows, sorted(np.random.default_rng(0).choice(len(rows), count, replace=False)))


def _place(source: str, split: Split) -> _Place:
    """Find where the rows of a split are; where there are none of their own, those of the other split.

    Raises:
        DataError: no such file or dataset, an unknown ending, or several files for one split.
    """
    path = Path(source)
    if path.is_file():
        return _of_file(path)
    if path.is_dir():
        return _of_saved(path, split) or _of_folder(path, split)
    if not ON_HUB.fullmatch(source) or ending_of(path) in READERS:
        raise DataError(f"no file or folder {source}: {_nearest(path)}")
    name, _, config = source.partition(":")
    own = _own_or_other(splits_on_hub(name, config or None), split, source)
    return _Place(f"split {own!r} of {source}", partial(read_hub, name, config or None, own))


def _nearest(path: Path) -> str:
    """Say what there is instead of a path: the name beside it that is most like its own."""
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    alike = get_close_matches(path.name, beside, n=1)
    return f"did you mean {str(path.with_name(alike[0]))!r}?" if alike else "check the path"


def _of_file(file: Path) -> _Place:
    if ending_of(file) not in READERS:
        raise DataError(f"unknown ending of {file}: use {ENDINGS}")
    return _Place(str(file), partial(_rows_of, file))


def _rows_of(file: Path) -> Dataset:
    table = read_table(file)
    kinds = ", ".join(f"{each.name!r} {each.type}" for each in table.schema)
    with reading(file, f"leave out the column of that kind, of {kinds:.200}, or what the file says of its columns"):
        return Dataset(table)


def _of_folder(folder: Path, split: Split) -> _Place:
    for stem in _stems(split):
        files = sorted(file for file in folder.glob(f"{stem}.*") if ending_of(file) in READERS)
        if len(files) > 1:
            raise DataError(f"{folder} has {', '.join(file.name for file in files)}: leave one file for each split")
        if files:
            return _of_file(files[0])
    raise DataError(f"{folder} has no train or validation file ending in {ENDINGS}: add one, or name a file")


def _of_saved(folder: Path, split: Split) -> _Place | None:
    """Find the rows of a split in a folder that `save_to_disk` wrote; None where it is no such folder."""
    if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return None
    with reading(folder, "save the dataset again"):
        saved = datasets.load_from_disk(str(folder))
    if not isinstance(saved, DatasetDict):
        return _Place(str(folder), partial(_whole, saved, folder))
    own = _own_or_other(saved, split, str(folder))
    return _Place(f"split {own!r} of {folder}", partial(_whole, saved[own], folder))


def _whole(saved: Dataset, folder: Path) -> Dataset:
    with reading(folder, "save the dataset again"):
        saved.data.validate(full=True)
    return saved


def _own_or_other(names: Iterable[str], split: Split, source: str) -> str:
    """Choose, of the splits of a dataset, the one that serves a split.

    Raises:
        DataError: there is neither of both; names those that there are.
    """
    known = list(names)
    for stem in _stems(split):
        if stem in known:
            return stem
    raise DataError(f"{source} has no train or validation split, but {', '.join(known)}: save one of these as a file")


def _stems(split: Split) -> tuple[str, ...]:
    other: Split = "train" if split == "validation" else "validation"
    return FILE_STEMS[split] + FILE_STEMS[other]
