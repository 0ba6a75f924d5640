"""Puts the measured tables into the README and the docs.

    python benchmarks/results_to_docs.py

Takes the rows of `benchmarks/results/minilm`, which `trimformer compare benchmarks/minilm.yaml` writes, and replaces
what is between the markers `<!-- results:begin -->` and `<!-- results:end -->` in each file of `TARGETS`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trimformer.compare import markdown
from trimformer.compare.plan import Plan, read_plan
from trimformer.compare.rows import Row
from trimformer.compare.run import stored

ROOT = Path(__file__).parents[1]
PLAN = ROOT / "benchmarks" / "minilm.yaml"
RESULTS = ROOT / "benchmarks" / "results" / "minilm"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def short(plan: Plan, rows: Sequence[Row]) -> str:
    """Accuracy, and what goes with it."""
    return f"{markdown.accuracy(plan, rows)}\n\n{markdown.notes(plan, rows)}"


def long(plan: Plan, rows: Sequence[Row]) -> str:
    """Costs and speed-ups as well."""
    return f"{short(plan, rows)}\n\n{markdown.costs(rows)}\n\n{markdown.speedups(plan, rows)}"


TARGETS: dict[Path, Callable[[Plan, Sequence[Row]], str]] = {
    ROOT / "README.md": short,
    ROOT / "docs" / "methods.md": long,
}


def main() -> None:
    """Write all targets, or none where one of them has no place for the tables."""
    plan = read_plan(PLAN)
    rows = stored(plan, RESULTS, print)
    missing = len(list(plan.cells())) - len(rows)
    if missing:
        sys.exit(
            f"{missing} cells are missing: trimformer compare benchmarks/minilm.yaml --out benchmarks/results/minilm"
        )
    try:
        pages = {
            target: between_markers(target.read_text(encoding="utf-8"), tables(plan, rows))
            for target, tables in TARGETS.items()
        }
    except (OSError, ValueError) as error:
        sys.exit(f"nothing was written: {error}")
    for target, page in pages.items():
        target.write_text(page, encoding="utf-8")
        print(f"wrote the tables into {target.relative_to(ROOT)}")


def between_markers(page: str, tables: str) -> str:
    """The page with the tables, and nothing else, between its two markers.

    Raises:
        ValueError: a marker is missing, is there twice, or they are in the wrong order.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end) or page.count(BEGIN) > 1 or page.count(END) > 1:
        first_line = page.partition("\n")[0]
        raise ValueError(f"the page {first_line!r} needs {BEGIN} and, below it, {END}, once each")
    return f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}"


if __name__ == "__main__":
    main()
