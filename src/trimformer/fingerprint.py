"""What a measurement depends on, as digests: the model's weights, the calibration tokens, the method's options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
import transformers

from trimformer import ranks
from trimformer.cache import DIGEST_CHARACTERS
from trimformer.errors import DataError
from trimformer.interfaces import Batch
from trimformer.job import Calibration
from trimformer.offload import stored

FORMAT = 1
"""Raised when what a method measures changes its meaning."""


def measured_key(calibration: Calibration, name: str, method: Any) -> dict[str, Any]:
    """Everything that a measurement depends on."""
    weights = hashlib.sha256(calibration.dense.model.config.to_json_string().encode())
    for path, values in stored(calibration.dense.model, calibration.dense.model.state_dict().items()):
        weights.update(path.encode())
        weights.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {
        "model": weights.hexdigest()[:DIGEST_CHARACTERS],
        "measured": f"{name}'s calibration",
        "data": fingerprint([*calibration.batches, *(calibration.labels or [])]),
        "options": {name: value for name, value in asdict(method).items() if name in method.measured_by},
        "seed": calibration.seed,
        "version": f"{version('trimformer')}, format {FORMAT}",
        "computed_by": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def check_together(calibration: Calibration, name: str, method: Any) -> None:
    """Refuse several processes that cannot work on one result.

    Raises:
        DataError: they were given different things, or there are more of them than batches.
    """
    if ranks.count() == 1:
        return
    key = measured_key(calibration, name, method) | {"options": asdict(method)}
    texts = {f"{ranks.index()} {part}": json.dumps(value).encode() for part, value in key.items()}
    found = ranks.gathered({about: torch.tensor(list(text), dtype=torch.uint8) for about, text in texts.items()})
    others = range(1, ranks.count())
    differing = [p for p in key if not all(torch.equal(found[f"0 {p}"], found[f"{other} {p}"]) for other in others)]
    if differing:
        raise DataError(
            f"the processes were given different things ({', '.join(differing)}): give all of them the same"
        )
    if ranks.count() > len(calibration.batches):
        raise DataError(
            f"{ranks.count()} processes, but the calibration rows make {len(calibration.batches)} batches: start "
            f"at most {len(calibration.batches)} processes, or use more --calibration-tokens"
        )


def fingerprint(batches: Sequence[Batch]) -> str:
    """Digest of the calibration tokens, to tell whether two runs used the same."""
    digest = hashlib.sha256()
    for batch in batches:
        for name, values in sorted(batch.items()):
            digest.update(f"{name}{tuple(values.shape)}".encode())
            digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()[:DIGEST_CHARACTERS]
