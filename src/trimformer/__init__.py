"""trimformer: make a Transformer physically smaller and measurably faster in minutes, without retraining.

Importing the package lets `from_pretrained` load pruned checkpoints. Its names are imported when they are first used,
so that neither that nor `trimformer --help` waits for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimformer.model.registration import register

if TYPE_CHECKING:
    from trimformer.errors import TrimformerError, TrimformerWarning
    from trimformer.judging.metrics import Metric
    from trimformer.judging.project import Project, evaluate
    from trimformer.model.by_hand import cut
    from trimformer.model.checkpoint import load_model, load_tokenizer
    from trimformer.model.checksums import verify
    from trimformer.model.structure import read_structure
    from trimformer.pruning.budget import Budget
    from trimformer.pruning.once import prune
    from trimformer.pruning.pruner import Pruner
    from trimformer.pruning.result import PruningResult
    from trimformer.pruning.sizes import Sizes
    from trimformer.report.saving import save
    from trimformer.vocabulary.trim import trim_vocabulary

_HOMES = {
    "Budget": "pruning.budget",
    "Metric": "judging.metrics",
    "Project": "judging.project",
    "Pruner": "pruning.pruner",
    "PruningResult": "pruning.result",
    "Sizes": "pruning.sizes",
    "TrimformerError": "errors",
    "TrimformerWarning": "errors",
    "cut": "model.by_hand",
    "evaluate": "judging.project",
    "load_model": "model.checkpoint",
    "load_tokenizer": "model.checkpoint",
    "prune": "pruning.once",
    "read_structure": "model.structure",
    "save": "report.saving",
    "trim_vocabulary": "vocabulary.trim",
    "verify": "model.checksums",
}
"""Module of every public name, below `trimformer`."""
__all__ = [
    "Budget",
    "Metric",
    "Project",
    "Pruner",
    "PruningResult",
    "Sizes",
    "TrimformerError",
    "TrimformerWarning",
    "cut",
    "evaluate",
    "load_model",
    "load_tokenizer",
    "prune",
    "read_structure",
    "save",
    "trim_vocabulary",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'trimformer' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"trimformer.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    """List all names of the package, those that nobody has used yet included."""
    return sorted({*globals(), *__all__})


register()
