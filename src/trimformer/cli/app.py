"""The program: it finds the commands, runs one, and says in one line what went wrong."""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from trimformer import plugins
from trimformer.cli import dialect
from trimformer.cli.console import error_console, replace_missing_characters
from trimformer.cli.launch import Launch, launched, process_count
from trimformer.cli.options import HELP_GROUPS
from trimformer.cli.signals import Asked, ending_at_signals
from trimformer.errors import InvalidOption, ProcessLost, TrimformerError, TrimformerWarning, first_line
from trimformer.judging.names import ELSEWHERE, shared_words
from trimformer.report.characters import visible

app = typer.Typer(
    help="Make a Transformer physically smaller and measurably faster in minutes, without retraining.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
UNEXPECTED, MISTAKE, INTERRUPTED = 1, 2, 130
"""Exit codes of the program, where it does not end well; that of an interruption is as typer gives it."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of places where no more can be written."""
TRACE = "TRIMFORMER_TRACE"
"""Name of an environment variable: where it is set, an unexpected error shows Python's traceback."""
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The class of every wrong use of the command line: click's or typer's own, depending on typer's version."""


def _add_commands() -> None:
    """Add every command under its heading, in the order that `HELP_PLACE` of their files gives."""
    for name, command in sorted(plugins.provided("commands").items(), key=lambda item: _place(item[1])):
        app.command(name, rich_help_panel=_place(command)[1])(_among_quiet_libraries(command))


def _place(command: Callable[..., None]) -> tuple[int, str, int]:
    group, position = import_module(command.__module__).HELP_PLACE
    return HELP_GROUPS.index(group), group, position


def _among_quiet_libraries(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command so that it first tells transformers and the hub's library to print nothing of their own."""

    @wraps(command)
    def quiet(**options: Any) -> None:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # else every attempt to reach the hub is told
        command(**options)

    return quiet


_add_commands()


def _print_version(asked: bool) -> None:  # noqa: FBT001  # typer calls it so
    if asked:
        sys.stdout.write(f"trimformer {version('trimformer')}\n")
        raise typer.Exit


@app.callback()
def _before_commands(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001, FBT002  # read by its callback; a flag of the command line
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    name = context.invoked_subcommand or ""
    command = plugins.provided("commands").get(name)
    if process_count() > 1 and not getattr(command and import_module(command.__module__), "MANY_PROCESSES", False):
        raise InvalidOption(f"{name} works in one process: start it without torchrun")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    A user's mistake is one line on stderr and exit code 2. Ctrl-C is exit code 130, SIGTERM 143, SIGHUP 129. An error
    that nobody expected is one line too, exit code 1 and a file with Python's traceback.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    replace_missing_characters()
    with ending_at_signals() as asked:
        try:
            with launched() as launch:
                _run(typed, launch, asked)
        except ProcessLost as error:  # the processes of this launch did not meet
            _end(str(error), asked.code if asked.number else MISTAKE, Launch())
        except KeyboardInterrupt:
            _end(asked.message, asked.code, Launch())


def _run(typed: Sequence[str], launch: Launch, asked: Asked) -> None:
    strange = next((word for word in typed if any("\ud800" <= each <= "\udfff" for each in word)), None)
    if strange is not None:  # what is not UTF-8 comes so from Python; other programs can neither read nor write it
        _end(f"{strange} is not UTF-8: rename the file or folder", MISTAKE, launch)
    with dialect.speaking(_dialect_of(typed)):
        try:
            with launch.only_first_prints(), _own_warnings():
                ended = _program()(typed, prog_name="trimformer", standalone_mode=False, obj=command_line(typed))
        except ProcessLost as error:
            _end(str(error), asked.code if asked.number else MISTAKE, launch, lost=True)
        except TrimformerError as error:
            _end_if_asked(asked, launch)
            _end(dialect.spoken(str(error)), MISTAKE, launch)
        except UsageError as error:
            _end(_usage(error, typed), MISTAKE, launch)
        except (typer.Abort, KeyboardInterrupt):
            ended = INTERRUPTED
        except Exception as error:
            _end_if_asked(asked, launch)
            told = _of_the_system(error)
            if told is None and os.environ.get(TRACE):
                raise
            _end(told or _unexpected(error, typed), MISTAKE if told else UNEXPECTED, launch)
    if ended == INTERRUPTED:  # newer versions of typer return it
        _end(asked.message, asked.code, launch)


def _of_the_system(error: Exception) -> str | None:
    """Word an error that a full disk, or a path that was given, can bring about anywhere; None for others."""
    if isinstance(error, OSError) and error.errno in FULL:
        return f"cannot write {error.filename or 'the output'}: {error.strerror}; free some space"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{error.filename!s:.60}… cannot be a path, it is too long: give a shorter one"
    return None


def _end_if_asked(asked: Asked, launch: Launch) -> None:
    """End as asked if a signal came before an error: in the middle of a library it may turn up as anything."""
    if asked.number:
        _end(asked.message, asked.code, launch)


def _dialect_of(typed: Sequence[str]) -> dialect.Dialect:
    """Find the dialect of the command that is typed: the first word that is no option."""
    return dialect.of_command(_program().commands.get(next((word for word in typed if not word.startswith("-")), "")))


@cache
def _program() -> Any:
    """Build the commands with all their options: once, since it takes a twentieth of a second."""
    return typer.main.get_command(app)


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Within the context, Python prints no warning of ours: commands print those of their results."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrimformerWarning)
        yield


def _unexpected(error: Exception, typed: Sequence[str]) -> str:
    """Word an error that nobody expected, and write its traceback to a file."""
    about = f"trimformer {version('trimformer')}, Python {sys.version.split()[0]}, {sys.platform}"
    told = f"{command_line(typed)}\n{about}\n\n{''.join(traceback.format_exception(error))}"
    with tempfile.NamedTemporaryFile("w", prefix="trimformer-", suffix=".txt", delete=False, encoding="utf-8") as trace:
        trace.write(without_credentials(told))
    return without_credentials(
        f"unexpected {type(error).__name__}: {first_line(error)}. This is a bug of trimformer: please report it, with "
        f"{trace.name}, which says where it happened"
    )


def _usage(error: Any, typed: Sequence[str]) -> str:
    """Word a wrong use of the command line, with the value that was typed, which newer versions of typer leave out."""
    option = next(iter(getattr(getattr(error, "param", None), "opts", ())), "")
    value = next((after for word, after in reversed([*pairwise(typed)]) if word == option), None)
    if value is not None and value not in error.format_message() and isinstance(error, typer.BadParameter):
        error = type(error)(f"{option} {value}: {error.message}", error.ctx)
    command = error.ctx.command_path if error.ctx else "trimformer"
    if not error.format_message():  # without any argument: the help is already printed
        raise SystemExit(MISTAKE)
    return f"{error.format_message().rstrip('.')}; see {command} --help"


def _end(message: str, code: int, launch: Launch, *, lost: bool = False) -> NoReturn:
    if launch.speaks(lost=lost):
        process = f"process {launch.index}: " if launch.index else ""
        text = Text.assemble(("Error: ", "bold red"), process, " ".join(message.split()))
        error_console.print(text, soft_wrap=True, highlight=False)
    raise SystemExit(code)


CREDENTIALS = re.compile(r"hf_\w{8,}|(?<=://)[^/@\s]+(?=@)")


def without_credentials(text: str) -> str:
    """Replace tokens and passwords in a text by `…`."""
    return CREDENTIALS.sub("…", text)


def command_line(arguments: Sequence[str]) -> str:
    """Write a command as it can be typed again, and shared: tokens, passwords and folders elsewhere in it become `…`.

    >>> command_line(["prune", "my model", "--flops", "0.4"])
    "trimformer prune 'my model' --flops 0.4"
    """
    return visible(without_credentials(" ".join(map(_quoted, ["trimformer", *shared_words(arguments)]))))


def _quoted(word: str) -> str:
    """Quote a word for a shell, which would not find `~` in quotes; `…` needs none."""
    bare = word.removeprefix("~/").replace(ELSEWHERE, "")
    return word if shlex.quote(bare) == bare else shlex.quote(word)
