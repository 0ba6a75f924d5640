"""Characters for consoles that cannot show all: `→` becomes `->` where the encoding has no arrow."""

from __future__ import annotations

import codecs

PLAIN = {
    "\N{NO-BREAK SPACE}": " ",
    "→": "->",
    "×": "x",
    "±": "+-",
    "–": "-",
    "−": "-",
    "…": "...",
    "█": "#",
    "·": ".",
    "“": '"',
    "”": '"',
}
"""What stands for a character that an encoding lacks."""
ERRORS = "trimformer-plain"
"""Name under which Python's streams know this replacement: `sys.stdout.reconfigure(errors=ERRORS)`."""


def printable(text: str, encoding: str | None) -> str:
    """Write a text with the characters of an encoding only; without one, in ASCII.

    >>> printable("91 → 69 MB, 1.98×", "cp1252"), printable("91 → 69 MB", "utf-8")
    ('91 -> 69 MB, 1.98×', '91 → 69 MB')
    """
    name = encoding or "ascii"
    return text.encode(name, errors=ERRORS).decode(name)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace what cannot be encoded: by plain characters, else by its number, as Python writes it.

    Raises:
        UnicodeError: it is not about encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in missing), error.end


codecs.register_error(ERRORS, _replaced)
