"""A project whose model keeps the words of some texts only; what that costs is judged with the pruning."""

from __future__ import annotations

from dataclasses import replace

from trimformer.data.columns import all_texts
from trimformer.data.files import read_rows
from trimformer.judging.names import shared_name
from trimformer.judging.project import Project
from trimformer.vocabulary.facts import CALIBRATION
from trimformer.vocabulary.trim import trim_vocabulary


def with_vocabulary(project: Project, source: str | None, *, judged: bool = True) -> Project:
    """Make the same project of a model with a trimmed vocabulary; the dense metrics stay those of the model as given.

    Args:
        project: of the model as given.
        source: file of the texts whose tokens are kept, or `calibration`: the project's calibration rows; None keeps
            all tokens.
        judged: measure the dense metrics; False where nothing will be judged.

    Raises:
        TrimformerError: as `trim_vocabulary`, or the file cannot be read.
    """
    if source is None:
        return project
    is_calibration = source == CALIBRATION
    rows = project.calibration_rows if is_calibration else read_rows(source, "train")
    encoded = project.task.encode(rows, project.tokenizer, project.max_length) if is_calibration else []
    trimmed = trim_vocabulary(
        project.model,
        project.tokenizer,
        all_texts(rows),
        held_out=all_texts(project.evaluation_rows),
        encoded_rows=[row["input_ids"] for row in encoded],
        name=shared_name(source),
        dtype=project.stored_dtype,
    )
    return replace(
        project,
        model=trimmed.model,
        tokenizer=trimmed.tokenizer,
        vocabulary=trimmed.facts,
        given=project.before if judged else None,
    )
