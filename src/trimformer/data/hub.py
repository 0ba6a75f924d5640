"""Rows and checkpoint folders from the Hugging Face hub, at a named commit where one is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import cast

import datasets
from datasets import Dataset
from huggingface_hub import hf_hub_download, snapshot_download

from trimformer.errors import CheckpointError, DataError, first_line

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Patterns of the files that are downloaded of a checkpoint; never a pickle."""
_revision: ContextVar[str | None] = ContextVar("revision", default=None)


def read_hub(name: str, config: str | None, split: str) -> Dataset:
    """Read the rows of one split of a dataset on the Hugging Face hub (or of its local cache).

    Raises:
        DataError: the dataset cannot be reached, or does not exist.
    """
    try:
        with _silent_datasets():
            return cast("Dataset", datasets.load_dataset(name, config, split=split, revision=_revision.get()))
    except Exception as error:  # of any class: somebody's files go through somebody's parsers
        raise DataError(
            f"cannot load split {split!r} of dataset {name!r}: {first_line(error)}; "
            "check the connection, or give a local file or folder as `data`"
        ) from error


def splits_on_hub(name: str, config: str | None) -> list[str]:
    """List the splits of a dataset on the hub.

    Raises:
        DataError: no file, folder or dataset has that name, or the hub cannot be reached.
    """
    try:
        with _silent_datasets():
            return list(datasets.get_dataset_split_names(name, config, revision=_revision.get()))
    except Exception as error:  # as above
        raise DataError(
            f"no file or folder {name}, and no dataset of that name can be had from the hub ({first_line(error)}): "
            "check the path, or the connection"
        ) from error


@contextmanager
def hub_revision(revision: str | None) -> Iterator[None]:
    """Within the context, `read_hub` reads datasets as they were at that commit; None is the newest."""
    before = _revision.set(revision)
    try:
        yield
    finally:
        _revision.reset(before)


def model_folder(name: str, revision: str | None = None) -> str:
    """Find the folder of a checkpoint; one on the hub is downloaded, where it is not yet in the hub's own cache.

    Raises:
        CheckpointError: the name is no local folder, and the hub does not give it.
    """
    if Path(name).is_dir():
        return name
    try:
        return snapshot_download(name, revision=revision, allow_patterns=list(MODEL_FILES))
    except (OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise CheckpointError(
            f"{name}{at} is no local folder and cannot be had from the hub: {first_line(error)}"
        ) from error


def hub_file(name: str, path: str) -> Path | None:
    """Find one file of a checkpoint on the hub, or in its local cache; None where it is in neither."""
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        return None
    try:
        return Path(hf_hub_download(name, path))
    except (OSError, ValueError):
        return None


@contextmanager
def _silent_datasets() -> Iterator[None]:
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
