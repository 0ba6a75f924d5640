"""Other people's words in Markdown: names, labels and titles are shown as they are, and never read as markup."""

from __future__ import annotations

import re

from trimformer.report.characters import in_a_line, visible

MARKUP = re.compile(r"[\\`*~<>|]|(?<!\w)_|_(?!\w)|(?<=\])[(:\[]|(?<=:)/(?=/)|!(?=\[)")
"""What Markdown reads as markup within a line: emphasis, code, tags, cells, links; addresses are no links either."""
BEGINNING = re.compile(r"^(#|[-+=](?=\s|[-=]|$)|\d+[.)](?=\s|$))")
"""What makes a line a heading, a rule or an item of a list."""


def escaped(value: object) -> str:
    r"""Write any text within a line or a table cell of Markdown.

    >>> escaped("a|b [x](http://y) <script>"), escaped("accuracy 0.88 → 0.87 (n=872)")
    ('a\\|b [x]\\(http:\\//y) \\<script\\>', 'accuracy 0.88 → 0.87 (n=872)')
    """
    plain = visible(" ".join(str(value).split())).replace("&", "&amp;")
    return BEGINNING.sub(r"\\\1", MARKUP.sub(r"\\\g<0>", plain))


def code(value: object) -> str:
    """Write any text as code within a line or a table cell of Markdown."""
    plain = visible(" ".join(str(value).split())).replace("`", "'")
    return f"`{plain.replace('|', '/')}`"


def code_line(value: object) -> str:
    """Write any text as the line of a block of code, which it does not end."""
    return in_a_line(str(value)).lstrip("`~ ")
