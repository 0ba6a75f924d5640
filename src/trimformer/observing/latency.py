"""Measured time of a forward pass: warm-up, models taken in turn so that a noisy machine is fair, median and spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from trimformer import processes
from trimformer.data.batches import Workload, device_of_batch, random_batch, shape
from trimformer.data.rows import CHOOSING, Batch
from trimformer.model.offload import device_of
from trimformer.observing.watching import frozen
from trimformer.progress import Progress


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass in milliseconds: median, lower and upper quartile of the runs, and what was run."""

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int
    rows: int
    length: int
    device: str
    threads: int

    @property
    def sequences_per_second(self) -> float:
        """Rows per second, by the median time."""
        return 1000 * self.rows / self.median_ms


FEWEST_RUNS = 3
"""Passes that count of each model, at least, where the time is limited."""
LONGEST_JUDGING = 30.0
"""Seconds that timing models before and after pruning takes at most, about."""


def measure(
    models: Mapping[str, nn.Module], batch: Batch, *, runs: int = 15, warmup: int = 2, progress: Progress | None = None
) -> dict[str, Latency]:
    """Time one forward pass over the same batch for several models, interleaved run by run: `Latency` by name.

    Of several processes the first measures, while the others wait.

    Args:
        models: whatever is called as `model(**batch)`: a transformers model, one that is compiled, an `OnnxModel`.
        batch: on the device of the models.
        runs: passes that count, of each model.
        warmup: passes before these.
        progress: wraps a sequence to show a bar.
    """
    rounds = range(warmup + runs)
    times = torch.zeros(len(rounds), len(models), dtype=torch.float64)
    if processes.is_first():
        for round_ in rounds if progress is None else progress(rounds, "measuring latency"):
            times[round_] = times.new_tensor([_one_pass_ms(model, batch) for model in models.values()])
    by_model = processes.agreed(times)[warmup:].T.tolist()
    rows, length = shape(batch)
    device = str(device_of_batch(batch))
    return {
        name: Latency(
            **quartiles(values), runs=runs, rows=rows, length=length, device=device, threads=torch.get_num_threads()
        )
        for name, values in zip(models, by_model, strict=True)
    }


def measure_at(
    workload: Workload, models: Mapping[str, PreTrainedModel], *, runs: int = 15, progress: Progress | None = None
) -> dict[str, Latency]:
    """Time one forward pass over random tokens, of models with the same vocabulary on the same device."""
    return measure(models, _batch_for(next(iter(models.values())), workload), runs=runs, progress=progress)


def measure_within(
    seconds: float,
    workload: Workload,
    models: Mapping[str, PreTrainedModel],
    *,
    runs: int = 15,
    warmup: int = 2,
    progress: Progress | None = None,
) -> dict[str, Latency]:
    """Time models as `measure_at` does, in about so many seconds: by fewer passes, and if need be over fewer rows.

    One pass of the first model, which is the slowest, tells how many there is time for. `Latency` says what was run.
    """
    first = next(iter(models.values()))
    batch = _batch_for(first, workload)
    one = processes.agreed_number(_one_pass_ms(first, batch) / 1000 if processes.is_first() else 0.0)
    rounds = seconds / max(one * len(models), TINY)
    counted = round(min(runs, max(FEWEST_RUNS, rounds - warmup)))
    if rounds < FEWEST_RUNS + 1:
        warmup, rows = 1, max(1, round(workload.batch_size * rounds / (FEWEST_RUNS + 1)))
        batch = {name: values[:rows] for name, values in batch.items()}
    return measure(models, batch, runs=counted, warmup=min(warmup, counted), progress=progress)


def _batch_for(model: PreTrainedModel, workload: Workload) -> Batch:
    return random_batch(model.config, workload, device_of(model), of_choices=type(model).__name__.endswith(CHOOSING))


TINY = 1e-9
"""Seconds that a pass takes at least, to divide by."""


def quartiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """Compute `median_ms`, and `low_ms` and `high_ms`, the lower and upper quartile."""
    low, median, high = np.percentile(milliseconds, [25, 50, 75])
    return {"median_ms": float(median), "low_ms": float(low), "high_ms": float(high)}


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Within the context, PyTorch computes with so many CPU threads; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_pass_ms(model: nn.Module, batch: Batch) -> float:
    with frozen(model), torch.inference_mode():
        _synchronise(batch)
        start = perf_counter()
        model(**batch)
        _synchronise(batch)
        return 1000 * (perf_counter() - start)


def _synchronise(batch: Batch) -> None:
    device = device_of_batch(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
