"""Run what is missing of a comparison, cell by cell; every result is on the disk before the next cell starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from trimformer.compare.bench import Bench
from trimformer.compare.plan import Cell, Plan, Subject
from trimformer.compare.rows import Row, Rows
from trimformer.errors import InvalidOption, TrimformerError
from trimformer.judging.metrics import shown
from trimformer.progress import Progress

ROWS = "rows.jsonl"
Say = Callable[[str], None]
Bars = Callable[[], AbstractContextManager[Progress]]


def stored(plan: Plan, folder: Path, say: Say) -> list[Row]:
    """Find the newest row there is of each cell of a plan, whatever versions and content it was made with.

    Nothing is computed, and neither models nor data are needed.
    """
    wanted = [cell.key for cell in plan.cells()]
    newest = {row.key: row for row in Rows(folder / ROWS, say).all}
    return [newest[key] for key in wanted if key in newest]


def run(plan: Plan, folder: Path, say: Say, bars: Bars) -> list[Row]:
    """Run the cells of a plan that the folder does not have yet, and give the rows of all, in the plan's order.

    Cells that failed run again: memory may be free by now, or a later version of this package do better.

    Args:
        plan: what to compare.
        folder: has `rows.jsonl`, and models that are fine-tuned on the way.
        say: is told of each cell that is done.
        bars: a context in which progress is shown.

    Raises:
        TrimformerError: a model, rows or a plan that cannot be used. What a single cell cannot do is its row's failure.
    """
    rows = Rows(folder / ROWS, say)
    benches = {subject.label: Bench(subject, plan.device, folder) for subject in plan.subjects}
    keys = {cell.key: benches[cell.subject.label].identity(cell) for cell in plan.cells()}
    known = {key: rows.find(identity) for key, identity in keys.items()}
    missing = [cell for cell in plan.cells() if (row := known[cell.key]) is None or row.outcome is None]
    failed = sum(row is not None and row.outcome is None for row in known.values())
    again = f", {failed} of them again since they failed" if failed else ""
    say(f"{len(keys) - len(missing)} of {len(keys)} cells are there, {len(missing)} to run{again}")
    for label, bench in benches.items():
        here = [cell for cell in missing if cell.subject.label == label]
        for cells in _grouped(here):
            with bars() as bench.show, _told(bench.subject):
                for row in bench.run(cells):
                    rows.append(row)
                    say(_result(row))
        bench.free()
    found = {key: rows.find(identity) for key, identity in keys.items()}
    return [replace(row, task=key[0], method=key[1]) for key, row in found.items() if row is not None]


@contextmanager
def _told(subject: Subject) -> Iterator[None]:
    """Within the context, what is wrong with a task's model or rows is told with the line of the task."""
    try:
        yield
    except TrimformerError as error:
        raise InvalidOption(f"{subject.where}: {subject.label}: {error}") from error


def _grouped(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Group cells of one task: those together that one measurement serves."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.contender.label, cell.seed), []).append(cell)
    return list(groups.values())


def _result(row: Row) -> str:
    about = f"{row.task}, {row.method}, {row.share:.0%} of {row.cost}, seed {row.seed}"
    if row.outcome is None:
        return f"{about}: failed, {row.failure}"
    return f"{about}: {row.metric} {shown(row.value)}, dense {shown(row.dense.value)}, {row.seconds:.0f} s"
