"""trimformer: make a Transformer physically smaller and measurably faster in minutes, without retraining.

Importing the package lets `from_pretrained` load pruned checkpoints.
"""

from trimformer import modeling_trimformer as _modeling_trimformer  # registers the checkpoint hook
from trimformer.checkpoint import load_model, load_tokenizer, save
from trimformer.errors import TrimformerError
from trimformer.interfaces import Budget, Metric, PruningResult
from trimformer.pipeline import Pruner, prune
from trimformer.project import Project, evaluate

__all__ = [
    "Budget",
    "Metric",
    "Project",
    "Pruner",
    "PruningResult",
    "TrimformerError",
    "evaluate",
    "load_model",
    "load_tokenizer",
    "prune",
    "save",
]

del _modeling_trimformer
