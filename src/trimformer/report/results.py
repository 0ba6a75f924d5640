"""Results in Python: one line, HTML for a notebook, a checkpoint, a report. The methods of every result end here."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from trimformer.judging.manifest import Manifest, Origin
from trimformer.judging.result import TaskResult
from trimformer.model.sentence_files import sentence_transformers_files
from trimformer.pruning.result import PruningResult
from trimformer.report import page, pictures, saving, summary, units
from trimformer.report.characters import printable
from trimformer.report.headline import headline, kept
from trimformer.report.render import render

Result = PruningResult | TaskResult


def record(result: Result) -> Manifest:
    """Give the whole record of a result; of one that nobody judged, without metrics and times."""
    if isinstance(result, TaskResult):
        return result.facts
    return Manifest(model=result.facts, origin=Origin(source=result.model.name_or_path or ""))


def in_one_line(result: Result) -> str:
    """Say what a result is, in characters that the console has."""
    return printable(f"<{type(result).__name__}: {headline(record(result))}>", getattr(sys.stdout, "encoding", None))


def as_html(result: Result) -> str:
    """Make what a notebook shows: the first line, a table and a picture of what is kept; everything is escaped."""
    facts = record(result)
    return render(
        "result.html",
        headline=headline(facts),
        kept=kept(facts),
        warnings=facts.pruning.warnings,
        shares=summary.shares(facts),
        metrics=summary.metrics(facts),
        picture=pictures.kept(units.blocks(facts)),
    )


def save(
    result: Result, path: str | Path, *, tokenizer: PreTrainedTokenizerBase | None = None, overwrite: bool = False
) -> Path:
    """Write a result as a checkpoint, with the extra files of its source; see `saving.save`."""
    facts = record(result)
    return saving.save(
        result.model,
        path,
        tokenizer=tokenizer or result.tokenizer,
        manifest=facts.as_json(),
        overwrite=overwrite,
        dtype=result.stored_dtype if isinstance(result, TaskResult) else None,
        extra_files=sentence_transformers_files(facts.origin.source) if facts.origin.source else None,
    )


def report(result: Result, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the report page of a result."""
    out = Path(path)
    page.check_page_writable(out, overwrite=overwrite)
    page.write_page(page.checkpoint_page(record(result)), out)
    return out
