"""What a method measures of the dense model: once, or not at all where an earlier run kept it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimformer.model.unchanged import unchanged
from trimformer.observing.calibration import Calibration
from trimformer.observing.measurements import Measured, from_tensors, to_tensors
from trimformer.observing.resources import Used, watching_resources
from trimformer.pruning.cache import MeasuredCache
from trimformer.pruning.contract import Method
from trimformer.pruning.fingerprint import measured_key

SECONDS = "seconds"
"""Name in the cache of the time that a measurement took."""


@dataclass(frozen=True)
class Measuring:
    """A measurement, and what it took."""

    measured: Measured
    """Measurements of the method by site."""
    used: Used
    """Time and memory in this run: none where an earlier one measured."""
    seconds: float | None
    """Time that it took in whichever run; None where an earlier one did not note it."""


def measure(calibration: Calibration, name: str, method: Method, cache: MeasuredCache | None) -> Measuring:
    """Measure whatever no budget enters, or read it from the cache; what is measured is kept there."""
    key = measured_key(calibration, name, method) if cache else {}
    stored, kind = cache.read(key) if cache else None, method.measurement
    if cache and stored is not None and kind is not None:
        seconds = stored.pop(SECONDS, None)
        try:
            measured = from_tensors(kind, stored, [site.name for site in calibration.dense])
        except ValueError as error:  # written by a method of the same name and version that measures something else
            cache.warn(f"what {cache.folder} has does not fit the method ({error}): measuring again")
        else:
            return Measuring(measured, Used(), None if seconds is None else float(seconds))
    with unchanged(calibration.dense.model), watching_resources(calibration.dense.device) as used:
        found = method.measure(calibration)
    tensors = to_tensors(found)
    if cache and tensors:
        cache.write(key, tensors | {SECONDS: torch.tensor(used.seconds)})
    return Measuring(found, used, used.seconds)
