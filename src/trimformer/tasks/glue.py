"""GLUE: nine tasks of judging a sentence or a pair of sentences, by the benchmark's own metrics.

Rows of one's own need the same columns (pairs may also be called `sentence1` and `sentence2`) and the same labels.

Source: Wang et al., GLUE (arXiv 1804.07461).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimformer.judging import statistics
from trimformer.judging.classification import Benchmark, Classification, of_benchmark
from trimformer.judging.statistics import Statistic

HUB_NAME = "nyu-mll/glue"
HIGHEST_SIMILARITY = 5.0


def _glue(
    description: str,
    config: str,
    text_columns: Sequence[str],
    *,
    classes: tuple[str, ...] = (),
    judged_by: Mapping[str, Statistic] | None = None,
    validation_split: str = "validation",
) -> Classification:
    """Make one GLUE task; of similarities from 0 to 5 if it has no classes."""
    benchmark = Benchmark(f"GLUE's {config}", HUB_NAME, config, validation_split)
    return of_benchmark(description, benchmark, text_columns, classes, judged_by, HIGHEST_SIMILARITY)


PAIR = ("sentence1", "sentence2")
INFERENCE = ("entailment", "neutral", "contradiction")
PROVIDES = {
    "cola": _glue(
        "GLUE CoLA: is a sentence grammatical? Matthews' correlation",
        "cola",
        ("sentence",),
        classes=("unacceptable", "acceptable"),
        judged_by={"matthews": statistics.matthews},
    ),
    "sst2": _glue(
        "GLUE SST-2: is a film review positive? accuracy", "sst2", ("sentence",), classes=("negative", "positive")
    ),
    "mrpc": _glue(
        "GLUE MRPC: do two news sentences say the same? accuracy, F1",
        "mrpc",
        PAIR,
        classes=("not_equivalent", "equivalent"),
        judged_by={"accuracy": statistics.accuracy, "f1": statistics.f1},
    ),
    "stsb": _glue(
        "GLUE STS-B: how similar are two sentences, 0 to 5? Spearman's and Pearson's correlation",
        "stsb",
        PAIR,
        judged_by={"spearman": statistics.spearman, "pearson": statistics.pearson},
    ),
    "qqp": _glue(
        "GLUE QQP: do two questions ask the same? accuracy, F1",
        "qqp",
        ("question1", "question2"),
        classes=("not_duplicate", "duplicate"),
        judged_by={"accuracy": statistics.accuracy, "f1": statistics.f1},
    ),
    "mnli": _glue(
        "GLUE MNLI: does a premise entail a hypothesis? accuracy on the genres of the training rows",
        "mnli",
        ("premise", "hypothesis"),
        classes=INFERENCE,
        validation_split="validation_matched",
    ),
    "mnli_mismatched": _glue(
        "GLUE MNLI-mm: does a premise entail a hypothesis? accuracy on other genres than the training rows",
        "mnli",
        ("premise", "hypothesis"),
        classes=INFERENCE,
        validation_split="validation_mismatched",
    ),
    "qnli": _glue(
        "GLUE QNLI: does a sentence hold the answer to a question? accuracy",
        "qnli",
        ("question", "sentence"),
        classes=("entailment", "not_entailment"),
    ),
    "rte": _glue(
        "GLUE RTE: does a text entail a sentence? accuracy", "rte", PAIR, classes=("entailment", "not_entailment")
    ),
    "wnli": _glue(
        "GLUE WNLI: does a sentence follow with its pronoun replaced? accuracy",
        "wnli",
        PAIR,
        classes=("not_entailment", "entailment"),
    ),
}
