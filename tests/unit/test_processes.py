"""Shares are complete, even and never empty; a process that is alone takes all and gives back what it gets."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
import torch
from torch import distributed as dist

from commands import Run, assert_mistake
from trimformer import processes
from trimformer.cli.launch import Launch, launched


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("items", [7, 8, 40])
def test_shares_are_even_and_none_is_empty(items: int, count: int) -> None:
    weights = torch.rand(items, generator=torch.Generator().manual_seed(items)).tolist()
    owners = processes.shared_out(weights, count)
    loads = [sum(w for w, owner in zip(weights, owners, strict=True) if owner == each) for each in range(count)]
    assert len(owners) == items
    assert owners[0] == 0
    assert len(Counter(owners)) == count
    assert max(loads) - min(loads) <= max(weights)


def test_equal_items_are_dealt_out() -> None:
    assert Counter(processes.shared_out([1.0] * 9, 4)) == {0: 3, 1: 2, 2: 2, 3: 2}


def test_more_processes_than_items_leave_some_without() -> None:
    assert processes.shared_out([2.0, 1.0], 5) == [0, 1]


def test_alone_everything_is_as_it_was() -> None:
    values = torch.arange(3.0)
    processes.add_up(values)
    assert torch.equal(values, torch.arange(3.0))
    assert processes.agreed(values) is values
    assert processes.agreed_number(0.1) == 0.1
    assert processes.gathered({"values": values})["values"] is values
    assert (processes.count(), processes.index(), processes.is_first()) == (1, 0, True)
    assert processes.own_places([3.0, 1.0]) == [0, 1]


def test_alone_there_is_nobody_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with launched() as launch:
        assert launch.speaks(lost=False)
        assert launch.speaks(lost=True)


def test_one_of_several_speaks_and_all_whose_store_is_gone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    keeper = dist.TCPStore("localhost", 0, 2, is_master=True, wait_for_workers=False)
    other = dist.TCPStore("localhost", keeper.port, 2, is_master=False)
    try:
        assert Launch(keeper, 0).speaks(lost=False)
        assert not Launch(other, 1).speaks(lost=False)
        assert not Launch(other, 1).speaks(lost=True)
        del keeper
        assert Launch(other, 1).speaks(lost=False)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_processes_that_cannot_meet_say_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": ""}.items():
        monkeypatch.setenv(name, value)
    assert_mistake(run("evaluate", "model"), "do not find each other", "start them with torchrun")
