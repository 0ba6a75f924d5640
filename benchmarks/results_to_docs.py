"""Puts measured tables and plots into the README and the docs.

    python benchmarks/results_to_docs.py [NAME …]

Takes the rows of `benchmarks/results/NAME`, which `trimformer compare benchmarks/NAME.yaml` writes, and replaces what
is between the markers `<!-- NAME:begin -->` and `<!-- NAME:end -->` in each page of `PAGES[NAME]`; without a NAME, of
all. Plots go to `docs/figures/NAME`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from trimformer.compare import markdown, plots
from trimformer.compare.plan import Plan, read_plan
from trimformer.compare.rows import Row
from trimformer.compare.run import stored
from trimformer.model.folders import write_text

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
DOCS = ROOT / "docs"
FIGURES = DOCS / "figures"
Tables = Callable[[Plan, Sequence[Row]], str]


@dataclass(frozen=True)
class Shown:
    """What a page shows of a comparison: some plots, by name, and below them tables."""

    tables: Tables
    plots: tuple[str, ...] = ()


def short(plan: Plan, rows: Sequence[Row]) -> str:
    """Accuracy, and what goes with it."""
    return _parts(markdown.accuracy(plan, rows), markdown.notes(plan, rows))


def with_speeds(plan: Plan, rows: Sequence[Row]) -> str:
    """Accuracy, and how fast the models of each size are."""
    return _parts(markdown.accuracy(plan, rows), markdown.speeds(plan, rows), markdown.notes(plan, rows))


def complete(plan: Plan, rows: Sequence[Row]) -> str:
    """The same, and why results are missing."""
    return _parts(short(plan, rows), markdown.failures(rows))


def with_costs(plan: Plan, rows: Sequence[Row]) -> str:
    """The same, how fast the models of each size are, and what pruning cost."""
    return _parts(with_speeds(plan, rows), markdown.failures(rows), markdown.costs(rows))


def with_speedups(plan: Plan, rows: Sequence[Row]) -> str:
    """The same, and how much faster models are that lose little."""
    return _parts(with_costs(plan, rows), markdown.speedups(plan, rows))


def with_whole_costs(plan: Plan, rows: Sequence[Row]) -> str:
    """Accuracy, all that it cost, training too, and how much faster the models are."""
    return _parts(complete(plan, rows), markdown.whole_costs(plan, rows), markdown.speedups(plan, rows))


def with_units_in_common(plan: Plan, rows: Sequence[Row]) -> str:
    """Accuracy, and what models of different tasks have in common."""
    return _parts(complete(plan, rows), markdown.units_in_common(rows))


def with_sensitivity(plan: Plan, rows: Sequence[Row]) -> str:
    """Accuracy, and what becomes of it as options vary."""
    return _parts(complete(plan, rows), markdown.sensitivity(plan, rows))


def of_method(method: str) -> Tables:
    """Accuracy of one method."""
    return lambda plan, rows: markdown.of_method(plan, rows, method)


def _parts(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


PAPERS: Mapping[str, Shown] = {
    "kprune-accuracy": Shown(complete, ("accuracy",)),
    "kprune-cost": Shown(with_costs, ("time",)),
    "kprune-speed": Shown(with_speedups, ("speedup",)),
    "kprune-sensitivity": Shown(with_sensitivity, ("sensitivity",)),
    "kprune-opt": Shown(complete),
    "pprune-figure2": Shown(complete, ("accuracy",)),
    "pprune-figure4": Shown(with_costs),
    "pprune-figure5": Shown(complete, ("accuracy",)),
    "pprune-figure6": Shown(with_units_in_common, ("common",)),
    "pprune-table2": Shown(complete),
}
"""The papers' experiments that were run here, by recipe."""
PAGES: Mapping[str, Mapping[Path, Shown]] = {
    "minilm": {
        DOCS / "methods.md": Shown(with_speedups, ("accuracy", "time")),
        **{DOCS / "methods" / f"{method}.md": Shown(of_method(method)) for method in ("surgeon", "kprune")},
    },
    "retraining": {
        DOCS / "retraining.md": Shown(with_whole_costs, ("cost",)),
        **{DOCS / "methods" / f"{name}.md": Shown(of_method(name)) for name in ("dynabert", "ebert", "p_pruning")},
    },
    "minilm-100k": {DOCS / "methods" / "surgeon.md": Shown(with_costs)},
    "minilm-100k-kprune": {DOCS / "methods" / "surgeon.md": Shown(with_speeds)},
    "held-back": {DOCS / "methods" / "surgeon.md": Shown(short)},
    "polish": {DOCS / "methods" / "polish.md": Shown(with_whole_costs)},
    "minilm-100k-mild": {DOCS / "methods" / "surgeon.md": Shown(short)},
    "embeddings-100k": {DOCS / "methods" / "surgeon.md": Shown(complete)},
    "embeddings-xquad": {DOCS / "methods" / "surgeon.md": Shown(short)},
    "minilm-95": {DOCS / "methods" / "surgeon.md": Shown(complete)},
    "blocks": {DOCS / "methods" / "surgeon.md": Shown(complete)},
    "mpnet": {
        ROOT / "README.md": Shown(with_speeds, ("accuracy",)),
        DOCS / "methods.md": Shown(with_speedups, ("accuracy",)),
    },
    "mpnet-far": {DOCS / "methods.md": Shown(with_speeds)},
    "mpnet-pairs-far": {DOCS / "methods.md": Shown(with_speeds)},
    "mpnet-100k": {DOCS / "methods.md": Shown(with_costs)},
    "students": {DOCS / "methods.md": Shown(with_speedups)},
    "mpnet-squad": {DOCS / "methods.md": Shown(with_costs)},
    "mpnet-squad-v2": {DOCS / "methods.md": Shown(with_costs)},
    "mpnet-squad-v2-answered": {DOCS / "methods.md": Shown(with_costs)},
    "mpnet-squad-v2-answered-100k": {DOCS / "methods.md": Shown(with_costs)},
    "mpnet-squad-v2-answered-200k": {DOCS / "methods.md": Shown(with_costs)},
    "kprune-balance": {DOCS / "methods" / "kprune.md": Shown(with_sensitivity)},
    "mask-tuning": {DOCS / "methods" / "mask_tuning.md": Shown(short)},
    "minilm-squad": {DOCS / "methods.md": Shown(with_costs)},
    "minilm-squad-100k": {DOCS / "methods.md": Shown(with_speeds)},
    "smollm2": {ROOT / "README.md": Shown(with_speeds), DOCS / "methods.md": Shown(with_speedups, ("accuracy",))},
    "smollm2-few": {DOCS / "methods.md": Shown(with_costs)},
    "smollm2-texts": {DOCS / "methods.md": Shown(with_speeds)},
    "decoders": {DOCS / "methods.md": Shown(with_speedups, ("accuracy",))},
    "decoders-own": {DOCS / "methods.md": Shown(complete, ("accuracy",))},
    **{f"papers/here/{name}": {DOCS / "papers.md": shown} for name, shown in PAPERS.items()},
}
"""By comparison, what goes into which page."""


def main() -> None:
    """Write all pages and plots, or none where rows are missing or a page has no place for the tables."""
    pages: dict[Path, str] = {}
    figures: dict[Path, Figure] = {}
    try:
        for name in sys.argv[1:] or PAGES:
            plan, rows = results(name)
            drawn = plots.figures(plan, rows)
            for page, shown in PAGES[name].items():
                wanted = {FIGURES / name / f"{plot}.svg": drawn[plot] for plot in shown.plots}
                links = [f"![{plan.title}]({file.relative_to(page.parent)})" for file in wanted]
                text = pages.get(page) or page.read_text(encoding="utf-8")
                pages[page] = between_markers(text, name, _parts(*links, shown.tables(plan, rows)))
                figures |= wanted
    except (OSError, ValueError) as error:
        sys.exit(f"nothing was written: {error}")
    for file, figure in figures.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        plots.save_svg(figure, file)
    for page, text in pages.items():
        write_text(text, page)
        print(f"wrote tables into {page.relative_to(ROOT)}")


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
