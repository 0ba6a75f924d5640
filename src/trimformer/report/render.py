"""Fill facts into the text templates of the package; whatever goes into a page is escaped."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from trimformer.judging.metrics import WORDS, interval, sample, shown
from trimformer.report import summary


def render(template: str, **facts: Any) -> str:
    """Fill facts into a template of the package; one that it needs and does not get is an error."""
    return _environment().get_template(f"{template}.j2").render(**facts)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("trimformer.report"),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = _markdown_code
    environment.globals |= {
        "names": summary.UNIT_NAMES,
        "interval": partial(interval, form=WORDS),
        "percent": summary.percent,
        "sample": sample,
        "shown": shown,
    }
    return environment


def _markdown_code(value: object) -> str:
    """Write any text as code within a line or a table cell of Markdown."""
    plain = " ".join(str(value).split()).replace("`", "'")
    return f"`{plain.replace('|', '/')}`"
