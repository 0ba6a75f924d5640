"""Processes started together, by torchrun and by hand: one result, one message, and none goes on alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from commands import Forked, rows, write
from conftest import TinyBert
from trimformer.cli import app
from trimformer.model import checkpoint

PATIENCE = 300
"""Seconds after which a process hangs; a machine may be busy."""
WEIGHT_TOLERANCE = 1e-5


class Processes(list[Forked]):
    """What a test starts; what they print goes to files in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder


@pytest.fixture
def model(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    return checkpoint.write(tiny_bert(num_labels=2), tmp_path / "dense", tokenizer=tokenizer)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for seed, (name, count) in enumerate((("train", 2000), ("validation", 70))):
        write(folder / f"{name}.jsonl", rows(count, seed))
    return folder


@pytest.fixture
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Processes that a test starts; none outlives it."""
    processes = Processes(tmp_path_factory.mktemp("said"))
    yield processes
    for each in processes:
        each.process.kill()
        each.process.join()


def prune(model: Path, data: Path, out: Path, *more: object) -> list[str]:
    options = ["--task", "sst2", "--data", data, "--flops", 0.5, "--method", "kprune", "--out", out, *more]
    return ["prune", str(model), *map(str, options)]


def by_hand(processes: Processes, *commands: list[str]) -> Processes:
    """Start a process for each command as a launcher would, all of one run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(commands))}
    for rank, command in enumerate(commands):
        environment = {**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        folder = processes.folder / str(rank)
        folder.mkdir()
        processes.append(Forked(command, environment, folder))
    return processes


def errors(processes: Processes) -> list[list[str]]:
    """What each process said went wrong; all have failed, without a word on stdout and without a traceback."""
    found = []
    for process in processes:
        code, out, err = process.end(PATIENCE)
        assert code != 0
        assert out == ""
        assert "Traceback" not in err
        found.append([line for line in err.splitlines() if line.startswith("Error: ")])
    return found


@pytest.mark.slow
def test_torchrun_writes_and_prints_what_one_process_does(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    app.main([*prune(model, data, alone, "--calibration-tokens", 2000), "--json"])
    one = json.loads(capsys.readouterr().out)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [*prune(model, data, together, "--calibration-tokens", 2000), "--json"]
    done = subprocess.run(
        [*command, "-m", "trimformer", *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pruning sublayers …") == 1
    two = json.loads(done.stdout)
    assert (one["processes"], two["processes"]) == (1, 2)
    for fact in ("units", "kept", "budget", "metrics", "calibration", "warnings"):
        assert one[fact] == two[fact]
    weights = load_file(together / "model.safetensors")
    for name, values in load_file(alone / "model.safetensors").items():
        torch.testing.assert_close(weights[name], values, atol=WEIGHT_TOLERANCE, rtol=0)
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "data", "alone", "together"}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["sweep", "--flops", "0.7,0.4", "--calibration-tokens", "2000"], marks=pytest.mark.slow),
        pytest.param(["prune", "--max-drop", "0.2", "--calibration-tokens", "2000"], marks=pytest.mark.slow),
        ["evaluate"],
    ],
    ids=["sweep", "prune", "evaluate"],
)
def test_every_command_for_several_finds_what_one_process_does(
    command: list[str], model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], started: Processes
) -> None:
    name, *options = command
    given = [name, str(model), "--task", "sst2", "--data", str(data), *options, "--json"]
    alone, together = (
        given if name == "evaluate" else [*given, "--out", str(tmp_path / folder)] for folder in ("alone", "together")
    )
    app.main(alone)
    one = json.loads(capsys.readouterr().out)
    first, second = (process.end(PATIENCE) for process in by_hand(started, together, together))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert second.out == ""
    assert facts(json.loads(first.out)) == facts(one)


def facts(printed: Any) -> Any:
    """What does not depend on the number of processes and the time: all metrics, and what was kept."""
    if isinstance(printed, list):
        return [facts(entry) for entry in printed]
    return {name: printed[name] for name in ("metrics", "units", "kept", "guard") if name in printed}


def test_a_mistake_is_said_once(model: Path, data: Path, tmp_path: Path, started: Processes) -> None:
    command = prune(model, data, tmp_path / "small", "--set", "gamma=-1")
    assert errors(by_hand(started, command, command)) == [
        ["Error: --set gamma=-1 is out of range: it must be above 0"],
        [],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compare", "latency"])
def test_a_command_for_one_process_is_refused(command: str, tmp_path: Path, started: Processes) -> None:
    first, second = errors(by_hand(started, *2 * [[command, str(tmp_path)]]))
    assert (len(first), second) == (1, [])
    assert f"{command} works in one process" in first[0]


def test_an_error_of_one_process_ends_all(model: Path, data: Path, tmp_path: Path, started: Processes) -> None:
    few = ("--calibration-tokens", 2000)
    right, wrong = (prune(model, rows, tmp_path / "small", *few) for rows in (data, tmp_path / "nowhere"))
    first, second = errors(by_hand(started, right, wrong))
    assert (first, len(second)) == ([], 1)
    assert second[0].startswith("Error: process 1: ")
    assert "nowhere" in second[0]
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "data"}


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_all(killed: int, model: Path, data: Path, tmp_path: Path, started: Processes) -> None:
    command = prune(model, data, tmp_path / "small", "--calibration-tokens", 15_000)
    processes = by_hand(started, command, command)
    processes[0].wait_until_it_says("pruning sublayers", PATIENCE)
    processes[killed].process.kill()
    start = time.monotonic()
    said = errors(processes)
    assert time.monotonic() - start < PATIENCE
    assert said[killed] == []
    assert len(said[1 - killed]) == 1
    assert "another process of this run has ended" in said[1 - killed][0]
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "data"}
