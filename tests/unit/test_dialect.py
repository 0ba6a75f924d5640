"""Messages of the core name Python's parameters; a command says them as it has them, and leaves all else alone."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from trimformer.cli import app
from trimformer.cli.console import warn
from trimformer.cli.dialect import Dialect, of_command, speaking, spoken


def dialect(command: str) -> Dialect:
    group: Any = typer.main.get_command(app.app)
    return of_command(group.commands[command])


@pytest.mark.parametrize(
    ("command", "message", "said"),
    [
        ("prune", "use at least `calibration_tokens=6144`", "use at least --calibration-tokens 6144"),
        ("prune", "choose another `out`", "choose another --out"),
        ("prune", 'try `method="surgeon"`', "try --method surgeon"),
        ("prune", "allow `overwrite=True`", "allow --overwrite"),
        ("prune", "or `overwrite=False`", "or `overwrite=False`"),
        ("prune", "or `damping=0.3`, or `gradients=False`", "or --set damping=0.3, or --set gradients=false"),
        ("prune", "raise `damping`", "raise --set damping=…"),
        ("prune", "lower `learning_rate`", "lower `learning_rate`"),
        ("prune", "`load_model` or `trimformer list`, `tasks:`", "`load_model` or `trimformer list`, `tasks:`"),
        ("pprune", "lower `learning_rate`, `patience=0`", "lower --train learning_rate=…, --train patience=0"),
        ("pprune", "`damping=0.3`, `seed`", "--set damping=0.3, --seed"),
        ("finetune", "`damping=0.3`", "`damping=0.3`"),
        ("evaluate", "`calibration_tokens=6144`", "`calibration_tokens=6144`"),
        ("evaluate", "give the dense model as `dense`", "give the dense model as --dense"),
        ("export", "`int8` with `task` and `data`", "--int8 with --task and --data"),
    ],
)
def test_a_command_says_what_it_has(command: str, message: str, said: str) -> None:
    assert dialect(command).spoken(message) == said


def test_warnings_are_said_so_too_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking(dialect("prune")):
        warn(["use `calibration_tokens=8`", "use `calibration_tokens=8`"])
    assert capsys.readouterr().err == "Warning: use --calibration-tokens 8\n"


def test_only_within_a_command_is_anything_translated() -> None:
    with speaking(dialect("prune")):
        assert spoken("`seed=1`") == "--seed 1"
    assert spoken("`seed=1`") == "`seed=1`"
