"""Rows and checkpoint folders from the Hugging Face hub, at a named commit where one is given."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

import datasets
from datasets import Dataset
from huggingface_hub import constants, hf_hub_download, snapshot_download, try_to_load_from_cache

from trimformer.data.columns import located
from trimformer.errors import CheckpointError, DataError, first_line

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Patterns of the files that are downloaded of a checkpoint; never a pickle."""
HUB_NAME = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
"""What can be the name of a model on the hub: at most one slash, and no dot or tilde at the start, as paths have."""
CONNECTING_SECONDS, ASKED_AGAIN_SECONDS = 3.0, 60.0
"""How long the hub may take to answer, and how long it is not asked again if it did not."""
_unreachable_since: list[float] = []
_revision: ContextVar[str | None] = ContextVar("revision", default=None)


def read_hub(name: str, config: str | None, split: str) -> Dataset:
    """Read the rows of one split of a dataset on the Hugging Face hub (or of its local cache).

    Raises:
        DataError: the dataset cannot be reached, or does not exist.
    """
    try:
        with _silent_datasets():
            rows = cast("Dataset", datasets.load_dataset(name, config, split=split, revision=_revision.get()))
    except Exception as error:  # of any class: somebody's files go through somebody's parsers
        raise DataError(
            f"cannot load split {split!r} of dataset {name!r}: {first_line(error)}; "
            "check the connection, or give a local file or folder as `data`"
        ) from error
    return located(rows, f"split {split!r} of {name}{f':{config}' if config else ''}")


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
    check_name(name)
    try:
        return snapshot_download(name, revision=revision, allow_patterns=list(MODEL_FILES))
    except (OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise CheckpointError(
            f"{name}{at} is no local folder and cannot be had from the hub: {first_line(error)}"
        ) from error


def check_name(name: str) -> None:
    """Refuse the name of a model that is no local folder and cannot be had from the hub either, before it is asked for.

    What cannot be a name on the hub is a path, and not looked up. Where the hub does not answer, and no copy of the
    model is in its cache, that is said within seconds, not after the attempts of every library that reads a file.

    Raises:
        CheckpointError: says which of the two.
    """
    if Path(name).exists():
        return
    if not HUB_NAME.fullmatch(name):
        raise CheckpointError(f"{name} is no local folder: check the path")
    if not _is_cached(name) and not constants.HF_HUB_OFFLINE and not is_reachable():
        raise CheckpointError(
            f"{name} is no local folder, and {constants.ENDPOINT} cannot be reached to look it up: check the path, "
            "or the connection"
        )


def lookup(name: str) -> dict[str, Any]:
    """Give the arguments for `from_pretrained` that keep it from the hub where that does not answer, for a name."""
    local = Path(name).exists() or constants.HF_HUB_OFFLINE or is_reachable()
    return {} if local else {"local_files_only": True}


def is_reachable() -> bool:
    """Tell whether the hub, or the proxy to it, takes a connection within seconds; for a minute, no is remembered."""
    if _unreachable_since and monotonic() - _unreachable_since[0] < ASKED_AGAIN_SECONDS:
        return False
    _unreachable_since.clear()
    reached: list[bool] = []
    attempt = Thread(target=lambda: reached.append(_connects()), daemon=True)  # names may take long to be resolved
    attempt.start()
    attempt.join(CONNECTING_SECONDS)
    if not any(reached):
        _unreachable_since.append(monotonic())
    return any(reached)


def _connects() -> bool:
    hub = urlsplit(constants.ENDPOINT)
    way = urlsplit(getproxies().get(hub.scheme, constants.ENDPOINT))
    port = way.port or {"http": 80}.get(way.scheme, 443)
    try:
        with socket.create_connection((way.hostname or "", port), timeout=CONNECTING_SECONDS):
            return True
    except OSError:
        return False


def _is_cached(name: str) -> bool:
    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def hub_file(name: str, path: str) -> Path | None:
    """Find one file of a checkpoint on the hub, or in its local cache; None where it is in neither."""
    if not HUB_NAME.fullmatch(name):
        return None
    try:
        return Path(hf_hub_download(name, path, **lookup(name)))
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
