"""Other people's words in Markdown: names, labels and titles are shown as they are, and never read as markup."""

from __future__ import annotations

import re

from trimformer.report.characters import in_a_line, visible

MARKUP = re.compile(r"[\\`*~<>|]|(?<!\w)_|_(?!\w)|(?<=\])[(:\[]|(?<=:)/(?=/)|!(?=\[)")
"""What Markdown reads as markup within a line: emphasis, code, tags, cells, links; addresses are no links either."""
BEGINNING = re.compile(r"^(#|[-+=](?=\s|[-=]|$)|\d+[.)](?=\s|$))")
"""What makes a line a heading, a rule or an item of a list."""
IN_BACKTICKS = re.compile(r"`([^`\s][^`]*)`")
"""How messages name options; see `trimformer.errors`."""


def escaped(value: object) -> str:
    r"""Write any text within a line or a table cell of Markdown.

    >>> escaped("a|b [x](http://y) <script>"), escaped("accuracy 0.88 → 0.87 (n=872)")
    ('a\\|b [x]\\(http:\\//y) \\<script\\>', 'accuracy 0.88 → 0.87 (n=872)')
    """
    return BEGINNING.sub(r"\\\1", _without_markup(_in_a_line(value)))


def code(value: object) -> str:
    """Write any text as code within a line or a table cell of Markdown."""
    plain = _in_a_line(value).replace("`", "'")
    return f"`{plain.replace('|', '/')}`"


def message(value: object) -> str:
    r"""Write a message of ours, in which options stand in backticks: these as code, all else as it is.

    >>> message("only 40 rows of my_data: use `calibration_tokens=20000`, or *more*")
    'only 40 rows of my_data: use `calibration_tokens=20000`, or \\*more\\*'
    """
    parts = (code(part) if is_code else _without_markup(part) for part, is_code in spans(_in_a_line(value)))
    return BEGINNING.sub(r"\\\1", "".join(parts))


def spans(text: str) -> list[tuple[str, bool]]:
    """Part a message into what stands in backticks, which is code, and what does not: the first and every second part.

    >>> spans("use `rows=5`, or more")
    [('use ', False), ('rows=5', True), (', or more', False)]
    """
    return [(part, bool(place % 2)) for place, part in enumerate(IN_BACKTICKS.split(text))]


def _in_a_line(value: object) -> str:
    return visible(" ".join(str(value).split()))


def _without_markup(plain: str) -> str:
    return MARKUP.sub(r"\\\g<0>", plain.replace("&", "&amp;"))


def code_line(value: object) -> str:
    """Write any text as the line of a block of code, which it does not end."""
    return in_a_line(str(value)).lstrip("`~ ")
