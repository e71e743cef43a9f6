# SPDX-License-Identifier: Apache-2.0
"""The command `cosil`.

Each subcommand is a module of this package with a click command of the same name, imported when it
is called: `cosil --help` loads neither torch, numba nor amaranth.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from cosil.errors import CosilError, ToolFailedError, ToolMissingError

COMMANDS = {
    "engines": "List the engines and their faces.",
    "methods": "List the compression methods and their packed formats.",
    "compress": "Compress a network and save it packed.",
    "info": "Show what a packed file holds.",
    "simulate": "Run a packed network on a machine.",
    "workload": "Write the attention rows of a pruning schedule, for simulate --workload.",
    "verilog": "Generate the Verilog of an engine, ready to use.",
    "verify": "Compare RTL, simulator and reference of an engine.",
    "demo": "Show all of this on two small networks.",
}
"""Subcommand -> what `cosil --help` says of it, so that help imports none of them."""

WRONG_USE = 2
FAILURE = 1
INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, and ends every error in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a session: look, compress, run, build, verify."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of that name and return its command."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"cosil.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown name with the nearest one."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}"
            raise CosilError(f"unknown command {args[0]!r}", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run the command and exit: 0, 1 for failure, 2 for wrong use or input, 130 for Ctrl-C."""
        arguments = list(sys.argv[1:] if args is None else args)
        debug = _take_debug(arguments)
        try:
            result = super().main(arguments, prog_name or "cosil", complete_var, False, **extra)
        except Exception as error:
            _exit_with(error, debug)
        except KeyboardInterrupt:
            _say("interrupted")
            sys.exit(INTERRUPTED)
        sys.exit(result if isinstance(result, int) else 0)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: cosil engines; cosil COMMAND --help shows one for each command.",
)
@click.version_option(package_name="cosil", message="cosil %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Compress a network, run it on cycle-exact accelerator models, generate their Verilog."""


def main() -> NoReturn:
    """Entry point of the installed command."""
    cli.main()


def _take_debug(arguments: list[str]) -> bool:
    # Accepted anywhere, since one adds it at the end of the line that failed.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--debug" not in arguments[:end]:
        return False
    arguments.remove("--debug")
    return True


def _exit_with(error: Exception, debug: bool) -> NoReturn:
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        # The reader of a pipe left; what Python flushes at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILURE)
    if debug:
        traceback.print_exception(error)
    if isinstance(error, click.exceptions.Exit):
        sys.exit(error.exit_code)
    if isinstance(error, click.Abort):
        _say("interrupted")
        sys.exit(INTERRUPTED)
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "cosil"
        _say(error.format_message(), f"{where} --help shows how it is used")
        sys.exit(WRONG_USE)
    if isinstance(error, click.ClickException):
        _say(error.format_message())
        sys.exit(WRONG_USE)
    if isinstance(error, CosilError):
        _say(str(error), error.hint)
        failed = isinstance(error, ToolFailedError | ToolMissingError)
        sys.exit(FAILURE if failed else WRONG_USE)
    if isinstance(error, ValueError | TypeError | OSError):
        _say(_os_message(error) if isinstance(error, OSError) else str(error))
        sys.exit(WRONG_USE)
    _say(f"{type(error).__name__}: {error}", "this is a defect of cosil; --debug shows where")
    sys.exit(FAILURE)


def _os_message(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def _say(message: str, hint: str = "") -> None:
    # One line for scripts that read it; what a tool printed keeps its own lines below.
    first, _, rest = message.partition("\n")
    click.echo(f"error: {first}", err=True)
    if rest:
        click.echo(rest, err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
