"""`trimformer verify`: whether the files of a checkpoint are those that were saved."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimformer.cli.options import JsonOption

HELP_PLACE = ("Take it along", 3)


def verify_command(
    folder: Annotated[Path, typer.Argument(help="Checkpoint folder, pruned or dense.")],
    accept: Annotated[bool, typer.Option("--accept", help="Note the files as they are now as the right ones.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare every file of a checkpoint with its checksum."""
    from trimformer.cli import console, steps
    from trimformer.errors import CheckpointError
    from trimformer.model.checksums import verify
    from trimformer.report import terminal

    files = verify(folder, accept=accept)
    if as_json:
        steps.print_json([asdict(each) for each in files])
    else:
        console.out_console.print(terminal.files_table(files))
    bad = [each.name for each in files if each.is_bad]
    if bad:
        raise CheckpointError(
            f"{folder}: {len(bad)} of {len(files)} files are not as they were saved, {bad[0]} among them; make or "
            "download it again, or if the changes are yours, note them by `accept=True`"
        )


PROVIDES = {"verify": verify_command}
