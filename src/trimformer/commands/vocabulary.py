"""`trimformer vocabulary`: the same model, with the tokens of somebody's texts only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimformer.cli.options import (
    ColumnOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelArgument,
    OverwriteOption,
    TrustOption,
    columns_named,
    option_of,
)
from trimformer.model.parameters import DEVICE, DTYPE
from trimformer.vocabulary.facts import CHARACTERS, MINIMUM_COUNT

HELP_PLACE = ("Make it smaller", 5)


def vocabulary_command(
    context: typer.Context,
    model: ModelArgument,
    texts: Annotated[str, typer.Option(help="File of the texts whose tokens are kept; every column with text counts.")],
    out: Annotated[Path, typer.Option(help="Folder for the smaller checkpoint.")],
    held_out: Annotated[
        str | None, typer.Option(help="File of other texts: tell what the trimmed tokenizer makes of them.")
    ] = None,
    column: ColumnOption = None,
    minimum_count: Annotated[int, option_of(MINIMUM_COUNT)] = MINIMUM_COUNT.default,
    characters: Annotated[str, option_of(CHARACTERS)] = CHARACTERS.default,
    device: DeviceOption = DEVICE.default,
    dtype: DtypeOption = DTYPE.default,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Keep only the tokens that your texts need, in tokenizer and embeddings; proved to read these texts as before."""
    from trimformer.cli import console, steps
    from trimformer.data.columns import all_texts, naming_columns
    from trimformer.data.files import read_rows
    from trimformer.judging.manifest import Manifest
    from trimformer.judging.names import shared_name
    from trimformer.model import checkpoint
    from trimformer.model.placement import Placement
    from trimformer.model.sentence_files import sentence_transformers_files
    from trimformer.report import saving, terminal
    from trimformer.report.saving import trimmed_manifest
    from trimformer.vocabulary.trim import trim_vocabulary

    checkpoint.check_writable(out, overwrite=overwrite, source=model)
    steps.claim(context, out)
    named = columns_named(column)
    with naming_columns(named):
        to_keep = all_texts(read_rows(texts, "train"), tuple(named))
        others = all_texts(read_rows(held_out, "train"), tuple(named)) if held_out else []
    given = checkpoint.place_model(model, None, Placement(device=device, dtype=dtype))
    stored = checkpoint.dtype_to_store(given, model)
    console.say(f"looking for the tokens of {len(to_keep)} texts …")
    trimmed = trim_vocabulary(
        given,
        checkpoint.load_tokenizer(model),
        to_keep,
        minimum_count=minimum_count,
        characters=characters,
        held_out=others,
        name=shared_name(texts),
        dtype=stored,
    )
    manifest = trimmed_manifest(trimmed, model, context.obj)
    saving.save(
        trimmed.model,
        out,
        tokenizer=trimmed.tokenizer,
        manifest=manifest,
        overwrite=overwrite,
        dtype=stored,
        extra_files=sentence_transformers_files(model),
    )
    if as_json:
        steps.print_json(manifest | {"out": str(out)})
        return
    console.out_console.print(terminal.vocabulary_table(trimmed.facts))
    steps.tell_checkpoint(Manifest.from_json(manifest), out)


PROVIDES = {"vocabulary": vocabulary_command}
