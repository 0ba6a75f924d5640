"""Time and peak memory of a stage."""

from __future__ import annotations

import os
import platform
import time

import numpy as np
import psutil
import pytest
import torch

from trimformer.observing.resources import EVERY_SECONDS, Machine, device_name, watching_resources

CPU = torch.device("cpu")


def test_a_passing_peak_is_seen() -> None:
    with watching_resources(CPU) as idle:
        time.sleep(2 * EVERY_SECONDS)
    with watching_resources(CPU) as used:
        big = np.ones(25_000_000)
        time.sleep(4 * EVERY_SECONDS)
        del big
    assert used.seconds >= 4 * EVERY_SECONDS
    assert used.memory_mb["host"] > idle.memory_mb["host"] + 150
    assert set(used.memory_mb) == {"host"}


def test_a_stage_that_fails_is_still_told() -> None:
    with pytest.raises(ZeroDivisionError), watching_resources(CPU) as used:
        _ = 1 / 0
    assert used.memory_mb["host"] > 0


def test_a_machine_tells_the_load_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "getloadavg", lambda: (1.5, 2.5, 3.5))
    assert Machine.now(CPU) == Machine(hardware=device_name(CPU), load=1.5)


def test_a_cpu_is_named_by_its_cores_and_instructions() -> None:
    assert device_name(CPU).startswith(f"{os.cpu_count()} x {platform.machine()} ")
