"""`trimformer list`: the names that there are to choose from."""

from __future__ import annotations

from trimformer.cli.options import JsonOption

HELP_PLACE = ("About", 1)


def list_command(as_json: JsonOption = False) -> None:
    """List methods, recipes, tasks, architectures and costs."""
    from trimformer import plugins
    from trimformer.cli import console, steps
    from trimformer.report import terminal

    listed = {
        folder: plugins.descriptions(folder) for folder in ("methods", "recipes", "tasks", "architectures", "costs")
    }
    if as_json:
        steps.print_json(listed)
    else:
        for folder, described in listed.items():
            console.out_console.print(terminal.plugins_table(folder, described))


PROVIDES = {"list": list_command}
