"""A small fixed share of `make kill`: see `killing.py`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import killing
import pytest
from killing import Case

Known = tuple[Case, str, float]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with killing.workshop() as folder:
        yield folder


@pytest.fixture(scope="module")
def known(place: Path) -> Known:
    case = next(case for case in killing.cases(place) if case.name == "prune")
    return case, *killing.reference(case, place)


def test_a_killed_run_leaves_nothing_and_ends_the_same(place: Path, known: Known) -> None:
    case, whole, seconds = known
    killing.kill_once(case, place, signal.SIGTERM, 0.6 * seconds, whole)


def test_a_run_that_is_killed_upon_its_first_kept_work_goes_on(place: Path, known: Known) -> None:
    case, whole, _ = known
    met = killing.kill_once(case, place, signal.SIGKILL, 0.0, whole, waits=True)
    assert met in ("resumed", "work kept")  # the second says nothing where all was settled


def test_of_two_runs_one_wins_and_the_other_is_told(place: Path, known: Known) -> None:
    case, whole, _ = known
    assert killing.race_once(case, place, 0.0, whole) in ("told at its start", "came after")
