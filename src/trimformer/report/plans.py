"""A plan in Python and as a page: one line, HTML for a notebook, a report, and sizes as a file."""

from __future__ import annotations

import sys
from pathlib import Path

from trimformer.errors import CheckpointError
from trimformer.judging.names import shared_name
from trimformer.model.manifest import as_text
from trimformer.pruning.facts import BlockFacts
from trimformer.pruning.plan import Plan, PlannedSize
from trimformer.pruning.sizes import is_of_sizes
from trimformer.report import page, pictures, summary
from trimformer.report.characters import printable
from trimformer.report.render import render
from trimformer.report.units import Units

DISTANCES = {
    "kl": "KL divergence from the original, in nats",
    "half_squared_distance": "half the squared distance from the original's number",
}


def losses(plan: Plan) -> list[str]:
    """Write the expected loss of every size in two digits; where it has no unit, relative to the largest."""
    largest = max(size.loss.expected for size in plan)
    values = [size.loss.expected / (1 if plan.distance else largest or 1) for size in plan]
    return [digits(value) for value in values]


def bands(plan: Plan) -> list[str]:
    """Write the band of every loss; nothing where there is none."""
    return [
        "" if loss.low is None or loss.high is None else f"{digits(loss.low)} to {digits(loss.high)}"
        for loss in (size.loss for size in plan)
    ]


def digits(value: float) -> str:
    """Write a positive number in two digits, without an exponent where it is not tiny.

    >>> digits(0.000417), digits(0.0684), digits(12.3), digits(3e-7)
    ('0.00042', '0.068', '12', '3e-07')
    """
    return f"{value:.2g}"


def asked(size: PlannedSize) -> str:
    """Write what a size was asked by: `flops 0.5`, `size 45MB`."""
    return f"{size.budget.cost} {size.asked}"


def remarks(plan: Plan) -> list[str]:
    """Say what losses are, what they are worth, and what pruning takes."""
    rows = f"rows like the {plan.sequences:,} that were measured ({plan.tokens:,} tokens)"
    if plan.distance is None:
        said = [f"Loss: relative to the largest here, on {rows}. It ranks sizes, and does not tell what is lost."]
    else:
        said = [f"Loss: {DISTANCES[plan.distance]}, on {rows}; a metric may hide or magnify it."]
    seconds = "" if plan.pruning_seconds is None else f"up to {rounded(plan.pruning_seconds)} s, and "
    return [*said, f"Pruning to one size takes {seconds}about {plan.memory_bytes / 1e9:.1f} GB beside the model."]


def rounded(seconds: float) -> str:
    """Write seconds in one digit, in two from ten on: as well as an estimate knows them.

    >>> rounded(0.08), rounded(3.7), rounded(126.0)
    ('0.08', '4', '130')
    """
    return f"{float(f'{seconds:.1g}' if seconds < 10 else f'{seconds:.2g}'):g}"


def in_one_line(plan: Plan) -> str:
    """Say what a plan is, in characters that the console has."""
    verb, unit = ("loses", " nats" if plan.distance == "kl" else "") if plan.distance else ("loses relatively", "")
    said = [f"{asked(size)} {verb} {loss}{unit}" for size, loss in zip(plan, losses(plan), strict=True)]
    shown = said if len(said) < 3 else [said[0], "…", said[-1]]
    sizes = f"{len(plan)} size{'s' if len(plan) > 1 else ''}"
    return printable(f"<Plan of {sizes}: {', '.join(shown)}>", getattr(sys.stdout, "encoding", None))


def blocks(size: PlannedSize) -> list[tuple[int, list[Units]]]:
    """List the units of each kind that every block would keep."""
    return [(row.block, [_units(row, kind) for kind in row.units]) for row in size.units]


def _units(row: BlockFacts, kind: str) -> Units:
    return Units(kind, row.units[kind].kept, row.units[kind].of, "")


def as_html(plan: Plan) -> str:
    """Make what a notebook shows: the table, the picture, and what the numbers are; everything is escaped."""
    return render("plan_result.html", **_facts(plan))


def plan_page(plan: Plan, command: str | None = None) -> str:
    """Make the HTML page of a plan; `command` makes it again."""
    return render(
        "plan.html",
        **_facts(plan),
        title=f"{Path(plan.model).name or 'model'} before the cut, by {plan.method}",
        kept=[(asked(size), blocks(size)) for size in plan],
        curve_pictures=page.curve_pictures(plan.curves, {}),
        warnings=plan.warnings,
        command=command,
        settings=[
            ("model", shared_name(plan.model)),
            ("method", plan.method),
            ("versions", summary.versions_text(plan.versions)),
        ],
        versions=plan.versions,
    )


def _facts(plan: Plan) -> dict[str, object]:
    rows = [(asked(size), size, loss, band) for size, loss, band in zip(plan, losses(plan), bands(plan), strict=True)]
    return {
        "dense": plan.dense,
        "rows": rows,
        "timed": plan.dense.latency_ms is not None,
        "remarks": remarks(plan),
        "picture": pictures.foretold(
            [(100 * size.kept["flops"], size.loss.expected, size.loss.low, size.loss.high) for size in plan],
            "expected loss" if plan.distance else "loss, without unit",
        ),
    }


def save_sizes(size: PlannedSize, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the sizes of a planned size as JSON, by layer; see `PlannedSize.save`."""
    out = Path(path)
    check_sizes_writable(out, overwrite=overwrite)
    page.write_page(as_text(size.sites), out)
    return out


def check_sizes_writable(out: Path, *, overwrite: bool) -> None:
    """Refuse a file that exists, cannot be made, or has another ending than JSON has; only sizes are replaced.

    Raises:
        CheckpointError: says what to give.
    """
    if out.suffix != ".json":
        raise CheckpointError(f"sizes are written as JSON, not as {out.name}: give a name such as plan.json")
    page.check_page_writable(out, overwrite=overwrite)
    if out.is_file() and not is_of_sizes(out):
        raise CheckpointError(f"{out} is no file of sizes: it is never replaced; choose another name")


def report(plan: Plan, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the report page of a plan."""
    out = Path(path)
    page.check_page_writable(out, overwrite=overwrite)
    page.write_page(plan_page(plan), out)
    return out
