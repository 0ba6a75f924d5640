"""How a checkpoint is loaded: the lines for the kind of model that it is, which run without this package too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from trimformer.judging.manifest import Manifest
from trimformer.model.modeling_trimformer import auto_class

SENTENCE_TRANSFORMERS = "modules.json"
"""File that makes a folder one of sentence-transformers."""


TASKS = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForCausalLM": "text-generation",
}
"""What models are for, by the name that the hub has for it and by auto class."""
FEATURES = "feature-extraction"
"""What all others are for."""
PIPELINES = ("text-classification", "token-classification", "fill-mask")
"""Tasks that a pipeline is as good for; transformers 5 has none that answers questions."""


@dataclass(frozen=True)
class Kind:
    """The use of a model, by its name on the hub, and the auto class that loads it."""

    task: str
    auto_class: str

    @property
    def has_pipeline(self) -> bool:
        """True if a pipeline does as well."""
        return self.task in PIPELINES


def kind_of(model_class: str) -> Kind:
    """Tell what a model of a class is for."""
    loader = auto_class(model_class)
    return Kind(TASKS.get(loader, FEATURES), loader)


def is_of_sentence_transformers(folder: str | Path) -> bool:
    """Tell whether a folder is a model of sentence-transformers."""
    return (Path(folder) / SENTENCE_TRANSFORMERS).is_file()


def loads_code(folder: str | Path) -> bool | None:
    """Tell whether a checkpoint's config names code of its own, which is loaded with `trust_remote_code` only.

    None where the folder has no config, or one that cannot be read.
    """
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return bool(config.get("auto_map")) if isinstance(config, dict) else None


def loading(facts: Manifest, folder: str, *, sentences: bool = False, code: bool | None = None) -> str:
    """Write the Python lines that load a checkpoint, where this package is installed and where it is not.

    Args:
        facts: of the checkpoint.
        folder: where it is.
        sentences: the folder is one of sentence-transformers.
        code: it has code of its own, see `loads_code`; None for what the facts say.
    """
    kind, where = kind_of(facts.model.model_class), json.dumps(folder, ensure_ascii=False)
    needs_code = facts.is_pruned and not facts.pruning.budget.uniform if code is None else code
    trusted = ", trust_remote_code=True" if needs_code else ""
    if sentences:
        loader = "CrossEncoder" if kind.task == "text-classification" else "SentenceTransformer"
        return f"from sentence_transformers import {loader}\n\nmodel = {loader}({where}{trusted})"
    if kind.has_pipeline:
        return f'from transformers import pipeline\n\nmodel = pipeline("{kind.task}", {where}{trusted})'
    loader = kind.auto_class
    return f"from transformers import {loader}\n\nmodel = {loader}.from_pretrained({where}{trusted})"


def in_one_line(lines: str) -> str:
    """Write Python lines as one, to be copied from a terminal."""
    return "; ".join(line for line in lines.splitlines() if line)
