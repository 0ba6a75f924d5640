"""Models and rows that a comparison uses, by digests: results are believed for the same content only."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trimformer.compare.plan import Source
from trimformer.data.hub import MODEL_FILES
from trimformer.data.readers import PACKED, READERS
from trimformer.model.trimformer_checks import MANIFEST

DATA_FILES = tuple(f"*{ending}{packed}" for ending in READERS for packed in ("", PACKED))
CHARACTERS = 16


def model_digest(source: Source) -> str:
    """Digest a local checkpoint's content; of one on the hub, give name and revision.

    Raises:
        InvalidOption: a local checkpoint is not there.
    """
    source.check()
    if source.local:
        return content_digest(Path(source.place), MODEL_FILES)
    return f"{source.name}@{source.revision or 'newest'}"


def data_digest(source: Source | None, revision: str | None) -> str:
    """Digest a local folder's or file's content; of rows on the hub (None), give the revision.

    Raises:
        InvalidOption: the folder or file is not there.
    """
    if source is None:
        return f"hub@{revision or 'newest'}"
    source.check()
    return content_digest(Path(source.place), DATA_FILES)


def content_digest(path: Path, patterns: tuple[str, ...]) -> str:
    """Digest a file, or the files of a folder that fit a pattern, by name and content; the manifest is left out."""
    found = {file for pattern in patterns for file in path.glob(pattern)} if path.is_dir() else {path}
    digest = hashlib.sha256()
    for file in sorted(found):
        if file.name != MANIFEST:
            digest.update(file.name.encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:CHARACTERS]
