"""Pictures of a report: SVG whose colours are the page's own CSS variables, and whose text is text."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogFormatter, MaxNLocator

from trimformer.judging.metrics import PERPLEXITY, Metric, interval, shown
from trimformer.model.sites import place
from trimformer.report.side_by_side import Frontier, TaskTable
from trimformer.report.units import UNIT_NAMES, Units

INK, MUTED, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404"
"""Placeholders that no other colour of a picture equals; each becomes the CSS variable of its name."""
SERIES = ("#050501", "#050502", "#050503", "#050504", "#050505", "#050506")
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)
}
MARKERS = "os^DvPX"
"""Markers that tell lines apart beside their colours; there is one more of them than there are colours."""
DASHES = ("-", (0, (4, 1.5)))
"""Kinds of lines for as many curves as are labelled, each in all colours before the next one."""
FONT = "system-ui, sans-serif"
WIDTH = 4.6
"""Width of every picture, in inches: readable on a phone, where it is shown a little smaller."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trimformer",
    "font.size": 12,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 12,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "path.simplify": False,
    "axes.formatter.useoffset": False,
}

MOST_LABELS, LABEL_HEIGHT = 12, 0.075
ABOVE = 0.12
"""Inches that stay free above: an exponent beside the uppermost tick is higher than the layout takes it to be."""
UNITS = {"attention": "heads", "ffn": "neurons"}


def intervals(name: str, rows: Mapping[str, Metric]) -> str:
    """Draw one metric of several models, as dots with their intervals, one below the other."""
    with _picture(
        f"metric-{name}", f"{name} with its 95 % interval: {_spoken(rows)}", 0.75 + 0.28 * len(rows)
    ) as drawn:
        axes = drawn.axes
        for height, (label, metric) in enumerate(reversed(list(rows.items()))):
            colour = MUTED if label == "dense" else ACCENT
            axes.plot([metric.low, metric.high], [height] * 2, color=colour, linewidth=2)
            axes.plot(metric.value, height, "o", color=colour)
        axes.set_title(name, loc="left")
        axes.set_yticks(range(len(rows)), list(rows)[::-1])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.08)
    return drawn.svg


def frontier(drawn: Frontier) -> str:
    """Draw a metric with its interval against what is left of the dense model."""
    said = ", ".join(f"{shown(metric.value)} at {share:.0f} %" for share, metric in drawn.points)
    title = f"{drawn.metric} against {drawn.measure}: {said}; dense {shown(drawn.dense.value)}"
    with _picture(f"frontier-{drawn.measure}", title, 2.9) as picture:
        draw_frontier(picture.axes, drawn)
    return picture.svg


def draw_frontier(axes: Axes, drawn: Frontier, colour: str = ACCENT, beside: str = MUTED) -> None:
    """Draw a frontier into a panel; what belongs to the dense model is in the colour `beside`."""
    for share, metric in drawn.points:
        axes.plot([share] * 2, [metric.low, metric.high], color=colour, linewidth=1.5)
    shares = [share for share, _ in drawn.points]
    axes.plot(shares, [metric.value for _, metric in drawn.points], "o-", color=colour)
    _dense_line(axes, drawn.dense, beside)
    metric_scale(axes, drawn.metric)
    axes.set(xlabel=f"{drawn.measure}, %", xlim=(0, max(105, 5 + shares[-1])))


def methods(table: TaskTable) -> str:
    """Draw the judging metric of several methods against the share that each was allowed to keep."""
    said = "; ".join(
        f"{name}: {', '.join(f'{shown(cell.value)} at {100 * cell.share:.0f} %' for cell in cells.values())}"
        for name, cells in table.methods.items()
    )
    title = f"{table.metric} of {table.task} against {table.cost}: {said}; dense {shown(table.dense.value)}"
    with _picture(f"methods-{table.task}-{table.cost}", title, 3.0 + 0.13 * len(table.methods)) as drawn:
        axes = drawn.axes
        for number, (name, cells) in enumerate(table.methods.items()):
            colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
            ordered = sorted(cells.values(), key=lambda cell: cell.share)
            shares = [100 * cell.share for cell in ordered]
            axes.vlines(
                shares, [cell.low for cell in ordered], [cell.high for cell in ordered], color=colour, linewidth=1
            )
            axes.plot(shares, [cell.value for cell in ordered], color=colour, marker=marker, label=name)
        _dense_line(axes, table.dense)
        metric_scale(axes, table.metric)
        axes.set(xlabel=f"{table.cost} kept, %", xlim=(0, 105))
        axes.figure.legend(loc="outside lower left", ncols=2, handlelength=1.5, columnspacing=1.2)
    return drawn.svg


def removal(sublayer: str, curves: Mapping[str, Sequence[float]], removed: Mapping[str, float]) -> str:
    """Draw what removing units of one kind of sublayer costs, block by block; a dot where each site stopped.

    Args:
        sublayer: `attention` or `ffn`.
        curves: by site, cumulated cost at evenly spaced shares of its units.
        removed: by site, the share of its units that is gone, from 0 to 1.
    """
    shown = {site: curve for site, curve in curves.items() if place(site)[1] == sublayer and curve[-1] > 0}
    said = f"Estimated loss against the share of {UNITS.get(sublayer, sublayer)} removed, a line a block"
    with _picture(f"removal-{sublayer}", said, 3.4) as drawn:
        axes = drawn.axes
        ends, every = {}, -(-len(shown) // MOST_LABELS)
        for number, (site, curve) in enumerate(shown.items()):
            style, beside = divmod(number, every)
            colour, dashes = SERIES[style % len(SERIES)], DASHES[style // len(SERIES)]
            shares = [100 * step / (len(curve) - 1) for step in range(len(curve))]
            axes.plot(shares[1:], curve[1:], color=colour, linestyle=dashes, linewidth=0.6 if beside else 1.5)
            _mark(axes, curve, removed.get(site, 0.0), colour)
            if not beside:
                ends[place(site)[0]] = (curve[-1], colour)
        logarithmic(axes)
        _limit_decades(axes, shown.values())
        axes.set(xlabel=f"{UNITS.get(sublayer, sublayer)} removed, %", ylabel="estimated loss", xlim=(0, 125))
        axes.set_xticks(range(0, 101, 25))
        _label_ends(axes, ends)
    return drawn.svg


def kept(blocks: Sequence[tuple[int, Sequence[Units]]]) -> str:
    """Draw the share of its units that every block keeps, a line a kind."""
    kinds = dict.fromkeys(unit.kind for _, units in blocks for unit in units)
    names = [UNIT_NAMES.get(kind, kind) for kind in kinds]
    with _picture("kept", f"Share of {' and '.join(names)} kept, by block", 2.6) as drawn:
        axes = drawn.axes
        for number, (kind, name) in enumerate(zip(kinds, names, strict=True)):
            found = [(block, unit.percent) for block, units in blocks for unit in units if unit.kind == kind]
            colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
            axes.plot(*zip(*found, strict=True), color=colour, marker=marker, label=name)
        axes.set(xlabel="block", ylabel="kept, %", ylim=(-4, 104))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.figure.legend(loc="outside upper left", ncols=2, handlelength=1.5, columnspacing=1.2)
    return drawn.svg


def foretold(points: Sequence[tuple[float, float, float | None, float | None]], name: str) -> str:
    """Draw the loss that is expected at shares of the FLOPs, with its band where there is one.

    Args:
        points: share in percent, loss, and lower and upper end of its band; sizes that lose nothing are left out.
        name: of the loss.
    """
    drawn = sorted(point for point in points if point[1] > 0)
    said = ", ".join(f"{loss:.2g} at {share:.0f} %" for share, loss, _, _ in drawn) or "none"
    with _picture("foretold", f"{name} against FLOPs: {said}", 2.9) as picture:
        axes = picture.axes
        shares = [share for share, _, _, _ in drawn]
        banded = [(share, low, high) for share, _, low, high in drawn if low is not None and high is not None]
        if banded:
            at, lows, highs = zip(*banded, strict=True)
            axes.fill_between(at, lows, highs, color=ACCENT, alpha=0.25, linewidth=0)
        axes.plot(shares, [loss for _, loss, _, _ in drawn], "o-", color=ACCENT)
        axes.set(xlabel="FLOPs kept, %", ylabel=name, xlim=(0, 105))
        logarithmic(axes)
    return picture.svg


def metric_scale(axes: Axes, metric: str) -> None:
    """Set name and scale of a metric's axis: a perplexity's is logarithmic, as it can grow without limit."""
    axes.set_ylabel(metric)
    if metric == PERPLEXITY:
        axes.set_ylabel("perplexity, lower is better")
        logarithmic(axes)


class _Plain(LogFormatter):
    """Writes numbers as people do, `0.02`, where its parent has any: powers are formulas, which take long to draw."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def logarithmic(axes: Axes, which: Literal["x", "y"] = "y", *, linear_to: float | None = None) -> None:
    """Make an axis logarithmic, with plain numbers; linear up to `linear_to`, if given, so that 0 has a place."""
    axis, set_scale = (axes.xaxis, axes.set_xscale) if which == "x" else (axes.yaxis, axes.set_yscale)
    if linear_to is None:
        set_scale("log")
        axis.set_minor_formatter(_Plain(minor_thresholds=(2, 0.5)))
    else:
        set_scale("symlog", linthresh=linear_to)
    axis.set_major_formatter(_Plain(linthresh=linear_to))


def _dense_line(axes: Axes, dense: Metric, colour: str = MUTED) -> None:
    axes.axhline(dense.value, linestyle="--", color=colour, linewidth=1)
    axes.annotate(
        "dense", (0, dense.value), (3, 4), color=colour, xycoords=("axes fraction", "data"), textcoords="offset points"
    )


def _mark(axes: Axes, curve: Sequence[float], share: float, colour: str) -> None:
    """Draw a dot on a curve at the share that was removed; none where nothing was."""
    place_on_curve = share * (len(curve) - 1)
    below = min(int(place_on_curve), len(curve) - 2)
    height = curve[below] + (place_on_curve - below) * (curve[below + 1] - curve[below])
    if share > 0 and height > 0:
        axes.plot(100 * share, height, "o", color=colour, markersize=5)


def _limit_decades(axes: Axes, curves: Collection[Sequence[float]], decades: float = 1e-6) -> None:
    """Limit the axis to six decades: the first removals can cost next to nothing."""
    highest = max(curve[-1] for curve in curves)
    lowest = min((value for curve in curves for value in curve if value > 0), default=highest)
    axes.set_ylim(max(lowest, decades * highest) / 1.5, 1.5 * highest)


def _label_ends(axes: Axes, ends: Mapping[int, tuple[float, str]]) -> None:
    """Write blocks' numbers beside where their curves end, each in its colour and with a line to it, apart.

    Args:
        axes: of the curves.
        ends: loss at the end of a curve and its colour, by block.
    """
    heights = {block: math.log(loss) for block, (loss, _) in ends.items()}
    bottom, top = (math.log(limit) for limit in axes.get_ylim())
    free = 0.0
    for left, block in zip(
        range(len(heights) - 1, -1, -1), sorted(heights, key=lambda block: heights[block]), strict=True
    ):
        height, colour = (heights[block] - bottom) / (top - bottom), ends[block][1]
        at = max(free, min(height, 1 - left * LABEL_HEIGHT))
        axes.plot([100, 111], [height, at], color=colour, linewidth=0.7, transform=axes.get_xaxis_transform())
        axes.annotate(f"{block}", (113, at), color=colour, va="center", xycoords=("data", "axes fraction"))
        free = at + LABEL_HEIGHT


class _Drawn:
    """A picture being drawn; `svg` is there at the end of the context."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.svg = ""


@contextmanager
def _picture(name: str, said: str, height: float) -> Iterator[_Drawn]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(h_pad=ABOVE))
        drawn = _Drawn(figure.subplots())
        yield drawn
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    drawn.svg = _inline(file.getvalue(), _identifier(name), said)


def _inline(svg: str, name: str, said: str) -> str:
    """Make an SVG file part of an HTML page: with ids of its own, the page's colours and font, and what it shows."""
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    box = re.findall(r'viewBox="[^"]*"', head)[0]
    replaced: Mapping[str, str | Callable[[re.Match[str]], str]] = {
        r'id="': f'id="{name}-',
        r'xlink:href="#': f'href="#{name}-',
        r"url\(#": f"url(#{name}-",
        r"\s*<style.*?</style>": "",
        r"'DejaVu Sans'[^;\"]*": FONT,
        "|".join(VARIABLES): lambda found: f"var({VARIABLES[found[0]]})",
    }
    for pattern, new in replaced.items():
        body = re.sub(pattern, new, body, flags=re.DOTALL)
    label = escape(said, quote=True)
    return f'<svg {box} role="img" aria-label="{label}"><title>{escape(said)}</title>{body.strip()}'


def _identifier(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def _spoken(rows: Mapping[str, Metric]) -> str:
    return "; ".join(f"{label} {shown(row.value)} {interval(row)}" for label, row in rows.items())
