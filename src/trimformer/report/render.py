"""Fill facts into the text templates of the package; whatever goes into a page is escaped."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from trimformer.judging.metrics import WORDS, interval, sample, shown
from trimformer.report import markdown, summary
from trimformer.report.characters import visible
from trimformer.report.units import UNIT_NAMES


def render(template: str, **facts: Any) -> str:
    """Fill facts into a template of the package; one that it needs and does not get is an error."""
    return _environment(of_markdown=template.endswith(".md")).get_template(f"{template}.j2").render(**facts)


@cache
def _environment(*, of_markdown: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("trimformer.report"),
        autoescape=select_autoescape(("html.j2",)),
        finalize=_escaped if of_markdown else _visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = lambda value: Markup(markdown.code(value))  # noqa: S704  # escaped by it
    environment.filters["message"] = _message_in_markdown if of_markdown else _message_in_html
    environment.filters["code_line"] = lambda value: Markup(markdown.code_line(value))  # noqa: S704  # as above
    environment.globals |= {
        "names": UNIT_NAMES,
        "interval": partial(interval, form=WORDS),
        "percent": summary.percent,
        "sample": sample,
        "shown": shown,
    }
    return environment


def _message_in_markdown(value: object) -> Markup:
    return Markup(markdown.message(value))  # noqa: S704  # escaped by it


def _message_in_html(value: object) -> Markup:
    """Write a message of ours, in which options stand in backticks: these as code."""
    parts = [(escape(part), is_code) for part, is_code in markdown.spans(visible(str(value)))]
    return Markup().join(Markup("<code>{}</code>").format(part) if is_code else part for part, is_code in parts)


def _escaped(value: Any) -> Any:
    """Escape a value for Markdown, unless a filter did so."""
    return value if isinstance(value, Markup) else markdown.escaped(value)


def _visible(value: Any) -> Any:
    """Show what would steer a browser's text; jinja escapes the rest."""
    return visible(value) if type(value) is str else value
