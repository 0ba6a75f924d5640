"""A run that was interrupted goes on from its journal, and ends with the same bits, whatever the method."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from tiny_models import SETTINGS, SHARES, inputs, labelled, main_head, tiny_model
from trimformer import Budget, Pruner, Sizes, plugins
from trimformer.data.rows import Features
from trimformer.pruning import journal
from trimformer.pruning.journal import Journal
from trimformer.pruning.refit import walk as refit_walk
from trimformer.pruning.result import PruningResult
from unit.test_checksums import flip

ROWS: list[Features] = [
    {"input_ids": [2, *range(5, 5 + n), 3], "attention_mask": [1] * (n + 2)} for n in (3, 9, 4, 12, 5, 7, 6, 11)
]


class Interrupted(Exception):
    pass


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every site is written as soon as it is settled."""
    monkeypatch.setattr(journal, "EVERY_SECONDS", 0.0)


def pruner(method: str, kept: Journal | None, architecture: str = "bert", **options: object) -> Pruner:
    head = main_head(architecture)
    rows = labelled(ROWS, head) if plugins.load("methods", method).needs_labels else ROWS
    model = tiny_model(architecture, head)
    known = {field.name for field in fields(plugins.load("methods", method))}
    refitted = {name: value for name, value in (("tune", True), ("epochs", 1)) if name in known}
    settings = SETTINGS.get(method, {}) | refitted | options
    return Pruner(model, rows, method=method, calibration_tokens=None, options=settings, journal=kept, progress=False)


def interrupted_at(site: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> int:
    """Run until so many sites were settled and one more is cut; gives the number of those that were cut."""
    cut, count = refit_walk.Stop.cut, 0

    def counted(stop: refit_walk.Stop, mask: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += stop.site.name not in seen
        seen.add(stop.site.name)
        if count > site:
            raise Interrupted
        return cut(stop, mask)

    seen: set[str] = set()
    with monkeypatch.context() as patch:
        patch.setattr(refit_walk.Stop, "cut", counted)
        with contextlib.suppress(Interrupted):
            run()
    return count


def same(one: PruningResult, other: PruningResult) -> bool:
    weights, others = one.model.state_dict(), other.model.state_dict()
    masks = all(torch.equal(mask, other.masks[name]) for name, mask in one.masks.items())
    config = one.model.config.to_dict() == other.model.config.to_dict()
    return (
        masks
        and config
        and weights.keys() == others.keys()
        and all(torch.equal(v, others[k]) for k, v in weights.items())
    )


@pytest.mark.parametrize("method", sorted(plugins.provided("methods")))
def test_a_resumed_run_ends_with_the_same_bits(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, said = Budget(flops=SHARES.get(method, 0.5)), list[str]()
    whole = pruner(method, None).prune(budget)
    kept = Journal(tmp_path / "journal", said.append)
    assert interrupted_at(3, monkeypatch, lambda: pruner(method, kept).prune(budget)) == 4
    assert same(pruner(method, kept).prune(budget), whole)
    assert any("going on from an interrupted run" in line for line in said)
    settled = interrupted_at(99, monkeypatch, lambda: pruner(method, kept).prune(budget))
    assert settled == 0, "everything is there"


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "albert", "llama", "modernbert"])
def test_every_layout_of_modules_goes_on(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [inputs(tiny_model(architecture, main_head(architecture)))]
    of = lambda kept: Pruner(tiny_model(architecture, main_head(architecture)), data, journal=kept, progress=False)  # noqa: E731
    budget, kept = Budget(params=0.3), Journal(tmp_path / "journal")
    whole = of(None).prune(budget)
    interrupted_at(2, monkeypatch, lambda: of(kept).prune(budget))
    assert same(of(kept).prune(budget), whole)


@pytest.mark.parametrize("place", [0, 2])
def test_what_is_damaged_is_said_and_done_anew_with_all_after_it(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, said = Budget(flops=0.5), list[str]()
    kept = Journal(tmp_path / "journal", said.append)
    sites = interrupted_at(99, monkeypatch, lambda: pruner("surgeon", kept).prune(budget))
    settled = sorted(kept.folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)[-sites:]
    flip(settled[place], -1)
    said.clear()
    assert interrupted_at(99, monkeypatch, lambda: pruner("surgeon", kept).prune(budget)) == sites - place
    assert any(f"{settled[place]} is damaged" in line for line in said)
    flip(settled[-1], -1)
    assert same(pruner("surgeon", kept).prune(budget), pruner("surgeon", None).prune(budget))


def test_a_journal_of_something_else_is_not_believed(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "journal")
    pruner("surgeon", kept).prune(Budget(flops=0.5))
    assert same(pruner("surgeon", kept).prune(Budget(flops=0.7)), pruner("surgeon", None).prune(Budget(flops=0.7)))
    asked = {"ridge": 0.1}
    found = pruner("surgeon", kept, **asked).prune(Budget(flops=0.5))
    assert same(found, pruner("surgeon", None, **asked).prune(Budget(flops=0.5)))


def test_short_runs_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "EVERY_SECONDS", 60.0)
    kept = Journal(tmp_path / "journal")
    pruner("kprune", kept).prune(Budget(flops=0.5))
    assert not kept.folder.exists()


def test_heads_of_another_shape_are_other_work(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "journal")

    def shape(heads: str, journal: Journal | None) -> tuple[int, int]:
        attention = (
            pruner("surgeon", journal).prune(sizes=Sizes(heads=heads)).model.bert.encoder.layer[0].attention.self
        )
        return attention.num_attention_heads, attention.query.out_features

    assert shape("2x4", kept) == shape("2x4", None) == (2, 8)
    assert shape("4x2", kept) == (4, 8)
