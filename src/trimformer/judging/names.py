"""Names of files and folders as others may see them: what is saved or shared says neither who made it nor where."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

ELSEWHERE = "…/"
"""What stands for the folders above a name that is in neither the current folder nor the user's home."""
ABSOLUTE = re.compile(r"(?:(?<=[\s='\"(,])|^)/[^\s='\"),;]*[^\s='\"),;:.]")
"""An absolute path within a text."""


def shared_name(name: str) -> str:
    """Give a name as others may see it: an absolute path from the current folder, from `~`, or its last part.

    >>> shared_name("owner/model"), shared_name("/data/somebody/model")
    ('owner/model', '…/model')
    """
    path = Path(name)
    if not path.is_absolute():
        return name
    for folder, shown in ((Path.cwd(), Path()), (_home(), Path("~"))):
        if folder and folder != folder.parent and path.is_relative_to(folder):
            return str(shown / path.relative_to(folder))
    return f"{ELSEWHERE}{path.name}"


def shared_words(words: Iterable[str]) -> list[str]:
    """Give the words of a command as others may see them, values after `=` as well.

    >>> shared_words(["prune", "/data/somebody/model", "--data=/data/rows.csv"])
    ['prune', '…/model', '--data=…/rows.csv']
    """
    return ["=".join(map(shared_name, word.split("="))) for word in words]


def shared_text(text: str) -> str:
    """Give a sentence as others may see it.

    >>> shared_text("cannot read /data/somebody/rows.csv: no columns")
    'cannot read …/rows.csv: no columns'
    """
    return ABSOLUTE.sub(lambda found: shared_name(found[0]), text)


def own_name(name: str) -> str:
    """Give a shared name as it can be opened here, where it begins with the user's home."""
    home = _home() if name.startswith("~/") else None
    return str(home / name[2:]) if home else name


def _home() -> Path | None:
    """Find the user's home; None for a user without one."""
    try:
        return Path.home()
    except RuntimeError:
        return None
