"""Time and peak memory of a stage, watched while it runs, and the machine that it runs on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from time import perf_counter, process_time

import psutil
import torch

EVERY_SECONDS = 0.05
MEGABYTE = 1e6


@dataclass
class Used:
    """Time and peak memory of a stage, filled in when it ends."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Time of all threads of this process."""
    memory_mb: dict[str, float] = field(default_factory=dict)
    """Peak memory in MB: `host` is the whole process's, seen every 50 ms; `cuda` what PyTorch allocates on the GPU."""


@contextmanager
def watching_resources(device: torch.device) -> Iterator[Used]:
    """Measure wall time in seconds and peak memory of the block; the result is filled in at its end."""
    used, done, peak = Used(), Event(), [_resident()]

    def look() -> None:
        while not done.wait(EVERY_SECONDS):
            peak[0] = max(peak[0], _resident())

    watcher = Thread(target=look, daemon=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    watcher.start()
    start, cpu = perf_counter(), process_time()
    try:
        yield used
    finally:
        used.seconds, used.cpu_seconds = perf_counter() - start, process_time() - cpu
        done.set()
        watcher.join()
        used.memory_mb["host"] = round(max(peak[0], _resident()) / MEGABYTE, 1)
        if device.type == "cuda":
            used.memory_mb["cuda"] = round(torch.cuda.max_memory_allocated(device) / MEGABYTE, 1)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where measured times come from, and what else ran there."""

    hardware: str
    """As `device_name`."""
    load: float
    """Processes that ran or waited for a core, this one among them, on average over the last minute."""

    @classmethod
    def now(cls, device: torch.device) -> Machine:
        """Look at the machine that a device belongs to."""
        return cls(hardware=device_name(device), load=psutil.getloadavg()[0])


def device_name(device: torch.device) -> str:
    """Name the device for a person who reads the figures elsewhere: the GPU, or the CPU's cores and instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} x {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def available_bytes(device: torch.device) -> int:
    """Count the bytes that can still be taken on a device without pushing anything else out."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
