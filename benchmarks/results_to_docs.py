"""Puts measured tables into the README and the docs.

    python benchmarks/results_to_docs.py [NAME …]

Takes the rows of `benchmarks/results/NAME`, which `trimformer compare benchmarks/NAME.yaml` writes, and replaces what
is between the markers `<!-- NAME:begin -->` and `<!-- NAME:end -->` in each page of `PAGES[NAME]`; without a NAME, of
all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trimformer.compare import markdown
from trimformer.compare.plan import Plan, read_plan
from trimformer.compare.rows import Row
from trimformer.compare.run import stored

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
Tables = Callable[[Plan, Sequence[Row]], str]


def short(plan: Plan, rows: Sequence[Row]) -> str:
    """Accuracy, and what goes with it."""
    return f"{markdown.accuracy(plan, rows)}\n\n{markdown.notes(plan, rows)}"


def long(plan: Plan, rows: Sequence[Row]) -> str:
    """Costs and speed-ups as well, and why results are missing."""
    parts = [short(plan, rows), markdown.failures(rows), markdown.costs(rows), markdown.speedups(plan, rows)]
    return "\n\n".join(filter(None, parts))


def of_method(method: str) -> Tables:
    """Accuracy of one method."""
    return lambda plan, rows: markdown.of_method(plan, rows, method)


PAGES: Mapping[str, Mapping[Path, Tables]] = {
    "minilm": {
        ROOT / "README.md": short,
        ROOT / "docs" / "methods.md": long,
        **{ROOT / "docs" / "methods" / f"{method}.md": of_method(method) for method in ("surgeon", "kprune")},
    },
    "decoders": {ROOT / "docs" / "methods.md": long},
}
"""By comparison, which tables go into which page."""


def main() -> None:
    """Write all pages, or none where rows are missing or a page has no place for the tables."""
    pages: dict[Path, str] = {}
    try:
        for name in sys.argv[1:] or PAGES:
            plan, rows = results(name)
            for file, tables in PAGES[name].items():
                page = pages.get(file) or file.read_text(encoding="utf-8")
                pages[file] = between_markers(page, name, tables(plan, rows))
    except (OSError, ValueError) as error:
        sys.exit(f"nothing was written: {error}")
    for file, page in pages.items():
        file.write_text(page, encoding="utf-8")
        print(f"wrote tables into {file.relative_to(ROOT)}")


def results(name: str) -> tuple[Plan, list[Row]]:
    """A comparison, and the row of each of its cells.

    Raises:
        ValueError: there is no such comparison, or it has not been run to its end.
    """
    if name not in PAGES:
        raise ValueError(f"{name!r} is none of {', '.join(PAGES)}")
    plan = read_plan(BENCHMARKS / f"{name}.yaml")
    rows = stored(plan, BENCHMARKS / "results" / name, print)
    missing = len(list(plan.cells())) - len(rows)
    if missing:
        raise ValueError(
            f"{missing} cells of {name} are missing: "
            f"trimformer compare benchmarks/{name}.yaml --out benchmarks/results/{name}"
        )
    return plan, rows


def between_markers(page: str, name: str, tables: str) -> str:
    """The page with the tables, and nothing else, between the two markers of that name.

    Raises:
        ValueError: a marker is missing, is there twice, or they are in the wrong order.
    """
    before, after = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, begin, rest = page.partition(before)
    _, end, tail = rest.partition(after)
    if not (begin and end) or page.count(before) > 1 or page.count(after) > 1:
        first_line = page.partition("\n")[0]
        raise ValueError(f"the page {first_line!r} needs {before} and, below it, {after}, once each")
    return f"{head}{before}\n\n{tables}\n\n{after}{tail}"


if __name__ == "__main__":
    main()
