"""A small fixed share of `make kill`: see `killing.py`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import killing
import pytest
from killing import Case

Known = dict[str, tuple[Case, str, float]]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with killing.workshop() as folder:
        yield folder


@pytest.fixture(scope="module")
def known(place: Path) -> Known:
    chosen = [case for case in killing.cases(place) if case.name in ("prune", "vocabulary")]
    return {case.name: (case, *killing.reference(case, place)) for case in chosen}


@pytest.mark.parametrize(
    ("name", "number", "share"), [("prune", signal.SIGKILL, 0.5), ("vocabulary", signal.SIGTERM, 0.7)]
)
def test_a_killed_run_leaves_nothing_and_ends_the_same(
    name: str, number: int, share: float, place: Path, known: Known
) -> None:
    case, whole, seconds = known[name]
    killing.kill_once(case, place, number, share * seconds, whole)


def test_of_two_runs_one_wins_and_the_other_is_told(place: Path, known: Known) -> None:
    case, whole, _ = known["prune"]
    assert killing.race_once(case, place, 0.0, whole) in ("told at its start", "came after")
