"""The command line: finds the commands, and says in one line what went wrong."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

import transformers
import typer
from rich.text import Text

from trimformer import plugins, processes
from trimformer.cli.console import error_console
from trimformer.cli.launch import Launch, launched
from trimformer.cli.options import HELP_GROUPS
from trimformer.errors import InvalidOption, ProcessLost, TrimformerError

app = typer.Typer(
    help="Make a Transformer physically smaller and measurably faster in minutes, without retraining.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
MISTAKE, INTERRUPTED = 2, 130
"""Exit codes."""
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Any wrong use of the command line; whether the class is click's or typer's own depends on typer's version."""


def _add_commands() -> None:
    """Every command under its heading, in the order that `HELP_PLACE` of their files gives."""
    for name, command in sorted(plugins.provided("commands").items(), key=lambda item: _place(item[1])):
        app.command(name, rich_help_panel=_place(command)[1])(command)


def _place(command: Callable[..., None]) -> tuple[int, str, int]:
    group, position = import_module(command.__module__).HELP_PLACE
    return HELP_GROUPS.index(group), group, position


_add_commands()


@app.callback()
def _check_processes(context: typer.Context) -> None:
    name = context.invoked_subcommand or ""
    command = plugins.provided("commands").get(name)
    if processes.count() > 1 and not getattr(command and import_module(command.__module__), "MANY_PROCESSES", False):
        raise InvalidOption(f"{name} works in one process: start it without torchrun")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2, Ctrl-C is exit code 130."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # else every attempt to reach the hub is told
    try:
        with launched() as launch:
            _run(arguments, launch)
    except ProcessLost as error:  # the processes of this launch did not meet
        _end(str(error), MISTAKE, Launch())


def _run(arguments: Sequence[str] | None, launch: Launch) -> None:
    try:
        typed = command_line(sys.argv[1:] if arguments is None else arguments)
        with launch.only_first_prints():
            ended = app(arguments, prog_name="trimformer", standalone_mode=False, obj=typed)
    except TrimformerError as error:
        _end(str(error), MISTAKE, launch, lost=isinstance(error, ProcessLost))
    except UsageError as error:
        _end(_usage(error), MISTAKE, launch)
    except (typer.Abort, KeyboardInterrupt):
        ended = INTERRUPTED
    if ended == INTERRUPTED:  # newer versions of typer return it
        _end("interrupted", INTERRUPTED, launch)


def _usage(error: Any) -> str:
    command = error.ctx.command_path if error.ctx else "trimformer"
    if not error.format_message():  # without any argument: the help is already printed
        raise SystemExit(MISTAKE)
    return f"{error.format_message()} Usage: {command} --help"


def _end(message: str, code: int, launch: Launch, *, lost: bool = False) -> NoReturn:
    if launch.speaks(lost=lost):
        process = "" if processes.is_first() else f"process {processes.index()}: "
        text = Text.assemble(("Error: ", "bold red"), process, " ".join(message.split()))
        error_console.print(text, soft_wrap=True, highlight=False)
    raise SystemExit(code)


CREDENTIALS = re.compile(r"hf_\w{8,}|(?<=://)[^/@\s]+(?=@)")


def command_line(arguments: Sequence[str]) -> str:
    """A command as it can be typed again; tokens and passwords in it become `…`.

    >>> command_line(["prune", "my model", "--flops", "0.4"])
    "trimformer prune 'my model' --flops 0.4"
    """
    return CREDENTIALS.sub("…", shlex.join(["trimformer", *arguments]))
