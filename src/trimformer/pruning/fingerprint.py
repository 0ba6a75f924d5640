"""Digests of what a measurement depends on: the model's weights, the calibration tokens, the method's options."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from trimformer.data.rows import Batch
from trimformer.model.modeling_trimformer import auto_class
from trimformer.model.offload import stored
from trimformer.model.sentence_files import pooling_of
from trimformer.observing.calibration import Calibration
from trimformer.pruning.cache import DIGEST_CHARACTERS

FORMAT = 1
"""Version of what methods measure: raised when that changes its meaning."""


def measured_key(calibration: Calibration, name: str, method: Any) -> dict[str, Any]:
    """Collect everything that a measurement depends on, as its key in the cache."""
    weights = hashlib.sha256(calibration.dense.model.config.to_json_string().encode())
    weights.update(str([(site.name, site.units, site.groups) for site in calibration.dense]).encode())
    for path, values in stored(calibration.dense.model, calibration.dense.model.state_dict().items()):
        weights.update(path.encode())
        weights.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {
        "model": weights.hexdigest()[:DIGEST_CHARACTERS],
        "measured": f"{name}'s calibration",
        "data": fingerprint([*calibration.batches, *(calibration.labels or [])]),
        "options": {name: value for name, value in asdict(method).items() if name in method.measured_by},
        "seed": calibration.seed,
        "pooling": _pooling(calibration.dense.model),
        "version": f"{version('trimformer')}, format {FORMAT}",
        "computed_by": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def work_key(calibration: Calibration, name: str, method: Any) -> dict[str, Any]:
    """Collect everything that pruning by a method depends on, but for the target."""
    return measured_key(calibration, name, method) | {"options": asdict(method)}


def _pooling(model: PreTrainedModel) -> list[str]:
    """Describe how a model without a head embeds, which is what it predicts; nothing for others."""
    return pooling_of(model).described() if auto_class(type(model).__name__) == "AutoModel" else []


def fingerprint(batches: Sequence[Batch]) -> str:
    """Compute a digest of the calibration tokens, to tell whether two runs used the same."""
    digest = hashlib.sha256()
    for batch in batches:
        for name, values in sorted(batch.items()):
            digest.update(f"{name}{tuple(values.shape)}".encode())
            digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()[:DIGEST_CHARACTERS]
