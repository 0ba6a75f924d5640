"""trimformer: make a Transformer physically smaller and measurably faster in minutes, without retraining.

Importing the package lets `from_pretrained` load pruned checkpoints.
"""

from trimformer.errors import TrimformerError
from trimformer.judging.metrics import Metric
from trimformer.judging.project import Project, evaluate
from trimformer.model import modeling_trimformer as _modeling_trimformer  # registers the checkpoint hook
from trimformer.model.checkpoint import load_model, load_tokenizer
from trimformer.pruning.budget import Budget
from trimformer.pruning.pruner import Pruner, prune
from trimformer.pruning.result import PruningResult
from trimformer.report.saving import save

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
