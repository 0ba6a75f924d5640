"""`trimformer report`: one HTML page about a result that is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimformer.cli.options import OverwriteOption

HELP_PLACE = ("Take it along", 2)


def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder that prune, sweep or demo wrote.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    overwrite: OverwriteOption = False,
) -> None:
    """Write one self-contained HTML page about a stored result; nothing is computed anew."""
    from trimformer.cli import steps
    from trimformer.report import page

    page.check_page_writable(out, overwrite=overwrite)
    steps.write_report(page.from_folder(folder), out)


PROVIDES = {"report": report_command}
