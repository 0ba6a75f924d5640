"""`trimformer demo`: the main job with nothing to download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimformer.cli.options import (
    DeviceOption,
    JsonOption,
    MethodOption,
    OverwriteOption,
    ReportOption,
    SeedOption,
    TokensOption,
    typed_share,
)
from trimformer.model.parameters import DEVICE
from trimformer.pruning.parameters import METHOD, SEED

HELP_PLACE = ("About", 2)
MANY_PROCESSES = True


def demo_command(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the smaller checkpoint.")] = Path("demo-model"),
    flops: Annotated[
        float, typer.Option(parser=typed_share, metavar="<share>", help="Share of FLOPs to keep, in (0, 1].")
    ] = 0.6,
    method: MethodOption = METHOD.default,
    calibration_tokens: TokensOption = 40_000,
    seed: SeedOption = SEED.default,
    device: DeviceOption = DEVICE.default,
    report: ReportOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """The main job with nothing to download: a sentence encoder on the docstrings of Python's standard library."""
    from trimformer import plugins
    from trimformer.cli import console, steps
    from trimformer.data.demo import demo_model, docstring_pairs
    from trimformer.judging.manifest import Origin
    from trimformer.judging.project import Project
    from trimformer.model import checkpoint
    from trimformer.model.placement import Placement
    from trimformer.pruning.budget import Budget
    from trimformer.pruning.method_options import make_method
    from trimformer.report.page import checkpoint_page

    budget = Budget(flops=flops)
    make_method(method, {})
    checkpoint.check_writable(out, overwrite=overwrite)
    steps.check_asked(report, overwrite=overwrite)
    steps.claim(context, out, report)
    task = plugins.load("tasks", "embedding")
    name = demo_model()
    dense, tokenizer = steps.load_with_tokenizer(name, task, Placement(device=device))
    with console.progress_bars(console.error_console, stages=4) as progress:
        calibration_rows, evaluation_rows = docstring_pairs(progress)
        project = Project(
            dense,
            tokenizer,
            task,
            calibration_rows,
            evaluation_rows,
            progress=progress,
            stored_dtype=checkpoint.stored_dtype(name),
            origin=Origin(source="all-MiniLM-L6-v2", task="embedding", data="library docstrings", command=context.obj),
        )
        pruner = project.pruner(method=method, calibration_tokens=calibration_tokens, seed=seed)
        result = project.judge(pruner.prune(budget))
    steps.save_pruned(result, name, tokenizer, out, overwrite=overwrite)
    if report is not None:
        steps.write_report(checkpoint_page(result.facts, str(out)), report)
    steps.report_pruned(result, out, as_json=as_json)


PROVIDES = {"demo": demo_command}
