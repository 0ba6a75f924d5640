"""Report pages in headless Chromium: no errors, nothing loaded, no sideways scrolling, readable in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM, Browser
from example_facts import facts, runs
from tiny_models import inputs, tiny_model
from trimformer.pruning.budget import Budget
from trimformer.pruning.plan import Plan
from trimformer.pruning.pruner import Pruner
from trimformer.report import page as report
from trimformer.report.plans import plan_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

LONG = "/home/somebody/models/" + "a-model-with-a-very-long-name-" * 4
WARNING = "accuracy fell from 0.8739 to 0.4213 (52%): this is too small for the task; try --flops 0.8"
WIDTHS = (360, 1280)
SMALLEST_PIXELS = 11
SIZES = """
[...document.querySelectorAll('figure svg text')].map(text => {
  const at = text.getScreenCTM();
  return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(at.a, at.b);
})
"""
"""Pixels of the letters of pictures; exponents are parts of a text."""
TEXT_CONTRAST, LARGE_TEXT_CONTRAST, GRAPHIC_CONTRAST = 4.5, 3.0, 3.0

CONTRASTS = """
(() => {
  const parse = colour => { const n = colour.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const paper = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.unshift(parse(getComputedStyle(at).backgroundColor));
    return layers.reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const light = c => {
    const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ratio = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + .05) / (low + .05);
  };
  const found = [];
  const add = (element, colour, kind, what) => {
    const under = paper(element), style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    found.push({kind: kind, large: large, what: what, ratio: ratio(over(parse(colour), under), under)});
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.data.trim() || ['TITLE', 'STYLE'].includes(element.tagName.toUpperCase())) continue;
    add(element, element.closest('svg') ? style.fill : style.color, 'text', node.data.trim());
  }
  for (const cell of document.querySelectorAll('.cells i, .bar i, .key i')) {
    const kept = cell.matches('.kept, .bar i');
    const style = getComputedStyle(cell);
    add(cell.parentElement, kept ? style.backgroundColor : style.borderTopColor, 'graphic', cell.className || 'cell');
  }
  const drawn = ['accent', 'series'].map(colour => `figure svg path[style*="--${colour}"]`).join();
  for (const line of document.querySelectorAll(drawn)) {
    const style = getComputedStyle(line);
    const colour = parse(style.stroke), seen = [...colour.slice(0, 3), colour[3] * Number(style.strokeOpacity)];
    add(line.closest('figure'), `rgba(${seen.join()})`, 'graphic', 'line');
  }
  return found;
})()
"""
TOO_WIDE = """
[...document.querySelectorAll('body *')].filter(element => {
  if (element.closest('.scroll, pre, svg') && !element.matches('.scroll, pre, svg')) return false;
  const box = element.getBoundingClientRect();
  return box.right > document.documentElement.clientWidth + 0.5 || box.left < -0.5;
}).map(element => element.outerHTML.slice(0, 120))
"""
CUT_OFF = """
[...document.querySelectorAll('figure svg')].flatMap(svg => [...svg.querySelectorAll('text')].filter(text => {
  const box = svg.getBoundingClientRect(), own = text.getBoundingClientRect();
  return own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1;
}).map(text => text.textContent))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    sweep = [facts(share, source=LONG) for share in (0.8, 0.6, 0.4, 0.2)]
    made = {
        "checkpoint": report.checkpoint_page(facts(source=LONG, data=LONG, warnings=[WARNING]), LONG),
        "sweep": report.sweep_page(sweep),
        "comparison": report.comparison_page("Three methods", runs(), failures=[f"random failed on {LONG}"]),
        "plan": plan_page(a_plan()),
    }
    for name, text in made.items():
        report.write_page(text, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in made}


def a_plan() -> Plan:
    """Plan a few sizes of a tiny classifier."""
    model = tiny_model("bert", "sequence classification")
    batch = inputs(model)
    return Pruner(model, [batch], progress=False).plan([Budget(flops=share) for share in (0.9, 0.7, 0.5)])


every_page = pytest.mark.parametrize("name", ["checkpoint", "sweep", "comparison", "plan"])


def too_faint(browser: Browser) -> list[dict[str, Any]]:
    """Texts and graphics below the contrast that WCAG 2.2 AA asks for."""
    seen = browser.ask(CONTRASTS)
    assert {"text"} <= {each["kind"] for each in seen}
    needed = {"text": TEXT_CONTRAST, "graphic": GRAPHIC_CONTRAST}
    return [each for each in seen if each["ratio"] < (LARGE_TEXT_CONTRAST if each["large"] else needed[each["kind"]])]


@every_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_page(browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(pages[name], width=width, scheme=scheme)
    assert browser.complaints == []
    assert browser.requests == [pages[name].as_uri()]
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask(TOO_WIDE) == []
    assert browser.ask(CUT_OFF) == []
    assert too_faint(browser) == []
    is_dark = browser.ask("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert is_dark == (scheme == "dark")


@every_page
def test_text_of_pictures_can_be_read_on_a_phone(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name], width=360)
    sizes = browser.ask(SIZES)
    assert len(sizes) > 10
    assert min(sizes) > SMALLEST_PIXELS


@every_page
def test_print_is_dark_on_white_and_opens_what_is_folded(
    browser: Browser, pages: dict[str, Path], name: str, tmp_path: Path
) -> None:
    browser.open(pages[name], width=700, scheme="dark", media="print")
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert too_faint(browser) == []
    assert browser.ask(TOO_WIDE) == []
    assert browser.ask("[...document.querySelectorAll('table.units')].filter(table => !table.clientHeight).length") == 0
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_the_checks_find_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><body style='background:#fff'><p style='color:#aaa'>faint</p>"
        "<div style='width:2000px'>wide</div>"
        "<figure><svg viewBox='0 0 10 10' width='10'><text x='50'>out</text></svg></figure>"
        "<img src='missing.png'><script>console.error('oh'); absent()</script>"
    )
    browser.complaints.clear()
    browser.open(page, width=360)
    assert [each["what"] for each in too_faint(browser)] == ["faint"]
    assert any("wide" in found for found in browser.ask(TOO_WIDE))
    assert browser.ask(CUT_OFF) == ["out"]
    for part in ("oh", "absent", "missing.png"):
        assert any(part in complaint for complaint in browser.complaints), part
    browser.complaints.clear()
