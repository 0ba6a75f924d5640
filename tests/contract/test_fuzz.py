"""A small share of the fuzzing, always the same: `make fuzz` has the rest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fuzz.campaign import Campaign, in_folder
from fuzz.judge import OTHER, REFUSED, TRACEBACK, WORKS, Ending, judged
from fuzz.world import KINDS

SEED = 1


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMFORMER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Campaign(tmp_path_factory.mktemp("fuzz"))


PLAIN = ("config", "weights", "manifest", "tokenizer", "data.csv", "data.json", "data.parquet", "yaml", "cache")
"""Kinds of files in the default run; every one takes a second or more."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in PLAIN else pytest.mark.slow) for kind in KINDS]
)
def test_damaged_files_are_refused_in_a_line_or_read(campaign: Campaign, kind: str) -> None:
    assert campaign.whole(kind).code == (2 if kind == "data.txt" else 0), "the whole file is refused"  # no labels
    case = campaign.run(kind, SEED)
    assert case.is_good, f"python -m tests.fuzz --kind {kind} --seed {SEED}: {case}"


def test_a_seed_is_the_same_damage(campaign: Campaign) -> None:
    first, second = (campaign.run("data.csv", 5) for _ in range(2))
    assert first == second
    assert first.what != campaign.run("data.csv", 6).what


def test_another_result_that_nobody_told_is_found(campaign: Campaign) -> None:
    whole = campaign.whole("data.csv")
    command, other = KINDS["data.csv"].command, Ending(whole.code, whole.out, whole.err, "another")
    with in_folder(campaign.template):
        assert judged(command, None, whole, told=True).word == WORKS
        assert judged(command, None, other, told=True).word == OTHER
        assert judged("evaluate model --data nothing.csv", None, whole, told=True).word == REFUSED
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trimformer.data.readers.utf8", lambda content: content[content])
            assert judged(command, None, whole, told=True).word == REFUSED, "a parser's error is ours"
            patch.setattr("trimformer.data.files.read_table", lambda file: file[0])
            assert judged(command, None, whole, told=True).word == TRACEBACK, (
                "an error of our own is none of the file's"
            )
