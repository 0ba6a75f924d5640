"""trimformer: make a Transformer physically smaller and measurably faster in minutes, without retraining.

Importing the package lets `from_pretrained` load pruned checkpoints.
"""

from trimformer import reshaping as _reshaping  # registers the checkpoint hook
from trimformer.checkpoint import load_model, load_tokenizer, save
from trimformer.errors import TrimformerError
from trimformer.interfaces import Budget, Metric, PruningResult
from trimformer.pipeline import prune
from trimformer.project import evaluate, prune_for_task

__all__ = [
    "Budget",
    "Metric",
    "PruningResult",
    "TrimformerError",
    "evaluate",
    "load_model",
    "load_tokenizer",
    "prune",
    "prune_for_task",
    "save",
]

del _reshaping
