"""Characters for consoles: `→` becomes `->` where the encoding has no arrow, and what would steer is shown instead."""

from __future__ import annotations

import codecs
import re

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
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that steer a terminal or turn text around, and halves of characters; tabs and ends of lines are none."""


def visible(text: str) -> str:
    r"""Show characters that would steer a terminal, erase or turn around what stands beside them, by their numbers.

    >>> visible("name\x1b[31m")
    'name\\x1b[31m'
    """
    return STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def in_a_line(text: str) -> str:
    r"""Show a name in one line, whatever it has in it.

    >>> in_a_line("two\nlines")
    'two\\nlines'
    """
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


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
