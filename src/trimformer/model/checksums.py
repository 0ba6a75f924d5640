"""Checksums of a checkpoint's files: noted when it is saved, compared when it is read, and told one by one.

They show damage and changes by mistake. Whoever changes a checkpoint on purpose can note new ones, so that they are no
proof of where it is from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open

from trimformer.errors import CheckpointError, TrimformerError, first_line
from trimformer.model.arguments import check_flag, check_path
from trimformer.model.manifest import as_text, read_manifest
from trimformer.model.soundness import damaged, naming, read_config, read_json, read_tokenizer
from trimformer.model.trimformer_checks import (
    CONFIG,
    FREE,
    MANIFEST,
    TOKENIZER,
    check_files,
    digest_of_file,
    is_of,
    listed_files,
    with_digest,
)

WHOLE, CHANGED, MISSING, NOT_LISTED = "whole", "changed", "missing", "not listed"
READABLE, DAMAGED, NOT_CHECKED = "readable", "damaged", "not checked"
CAN_BE_TOLD = "compared by SHA-256 with what was saved"
CANNOT_BE_TOLD = "no checksums here: the files can be read, but whether they are what was saved cannot be told"
BAD = (CHANGED, MISSING, DAMAGED)
"""States that make a checkpoint one that is not as it was saved."""


@dataclass(frozen=True)
class FileState:
    """The state of one file of a checkpoint."""

    name: str
    """Its path below the folder."""
    state: str
    """Of a file with a checksum: `whole`, `changed`, `missing`, or `not listed`; of one without: `readable`, `damaged`
    or `not checked`."""
    about: str = ""
    """What follows from that, or how it is damaged."""

    @property
    def is_bad(self) -> bool:
        """Whether the file is not as it was saved."""
        return self.state in BAD


def note(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a folder with the digests of all other files that are in it now."""
    files = {name: digest_of_file(folder / name) for name in _files(folder) if name != MANIFEST}
    (folder / MANIFEST).write_text(as_text(with_digest(manifest, files)), encoding="utf-8")


def check_model(name: str) -> None:
    """Compare what a model is made of, all files but its tokenizer's and those that are free, with their checksums.

    Raises:
        CheckpointError: names the first that is not as it was saved.
    """
    _check(name, lambda file: not is_of(file, (*TOKENIZER, *FREE)))


def check_tokenizer(name: str) -> None:
    """Compare the files of a tokenizer, and the config, with their checksums; raises the same error."""
    _check(name, lambda file: is_of(file, (*TOKENIZER, CONFIG)))


def check_config(name: str) -> None:
    """Compare the config with its checksum; raises the same error."""
    _check(name, lambda file: file == CONFIG)


def _check(name: str, concerns: Callable[[str], bool]) -> None:
    if not (Path(name) / CONFIG).is_file():
        return  # no folder, or not one of a checkpoint: whoever reads it says so
    try:
        check_files(Path(name), concerns)
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{name} is damaged or was changed: {first_line(error)}; make or download it again, "
            "or, if the change is yours, see `trimformer verify`"
        ) from error


def verify(folder: str | Path, *, accept: bool = False) -> list[FileState]:
    """Look at every file of a checkpoint folder: whether it is what was saved, as far as that can be told.

    Where no manifest lists the files, as of a dense model, it can only be told whether they can be read.

    Args:
        folder: of a checkpoint, pruned or dense.
        accept: note the files as they are now as the right ones, if they can be read.

    Raises:
        InvalidOption: an argument of another kind.
        CheckpointError: no checkpoint folder, or with `accept` one that cannot be read.
        DataError: with `accept`, a manifest that cannot be read.
    """
    check_path("folder", folder)
    check_flag("accept", accept)
    place = Path(folder)
    if not (place / CONFIG).is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: a folder with config.json and *.safetensors is needed")
    if accept:
        _accept(place)
    try:
        listed = listed_files(place)
    except ValueError as error:
        return [FileState(MANIFEST, DAMAGED, f"{error}: no other file can be compared")]
    return _readable(place) if listed is None else _compared(place, listed)


def _accept(folder: Path) -> None:
    for state in _readable(folder):
        if state.is_bad and state.name != MANIFEST:
            raise damaged(folder, f"{state.name} cannot be read ({state.about})")
    note(folder, read_manifest(folder, changed=True))


def _files(folder: Path) -> list[str]:
    """List the files of a folder by their paths in it, hidden ones left out."""
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def _compared(folder: Path, listed: Mapping[str, str]) -> list[FileState]:
    there = _files(folder)
    states = {MANIFEST: FileState(MANIFEST, WHOLE)}
    for name in sorted({*there, *listed} - {MANIFEST}):
        if name not in listed:
            states[name] = FileState(name, NOT_LISTED, "was added since")
        elif name not in there:
            states[name] = FileState(name, MISSING, _consequence(name))
        elif digest_of_file(folder / name) != listed[name]:
            states[name] = FileState(name, CHANGED, _consequence(name))
        else:
            states[name] = FileState(name, WHOLE)
    return [states[name] for name in sorted(states)]


def _consequence(name: str) -> str:
    if is_of(name, FREE):
        return "the model loads all the same"
    return "the tokenizer is refused" if is_of(name, TOKENIZER) else "the model is refused"


def _readable(folder: Path) -> list[FileState]:
    files = _files(folder)
    checks: dict[str, Callable[[], Any]] = {
        name: partial(_read, folder / name) for name in files if name.endswith((".safetensors", ".json"))
    }
    checks[CONFIG] = partial(read_config, str(folder))
    tokenizer = next((name for name in files if is_of(name, TOKENIZER)), None)
    if tokenizer is not None:
        checks[tokenizer] = partial(read_tokenizer, str(folder))
    return [_state(name, checks.get(name)) for name in files]


def _read(file: Path) -> None:
    if file.suffix == ".json":
        read_json(file)
        return
    with naming(str(file.parent)), safe_open(file, framework="pt") as stored:
        stored.keys()


def _state(name: str, check: Callable[[], Any] | None) -> FileState:
    if check is None:
        return FileState(name, NOT_CHECKED)
    try:
        check()
    except TrimformerError as error:
        return FileState(name, DAMAGED, first_line(error))
    return FileState(name, READABLE)
