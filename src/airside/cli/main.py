"""The command `airside`: its subcommands, and what a person sees when something goes wrong.

Subcommands are imported when they are called: `airside --help` must not pay for gRPC.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from airside import __version__
from airside.cli.exits import Exit
from airside.model import AirsideError, ConversionError, Retry, TaskError, UsageError
from airside.model.redaction import redact

# name -> (where the command is, its line in `airside --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("airside.cli.run:run", "Run a task here, or on a served agent, and print its outputs."),
    "serve": ("airside.cli.serve:serve", "Serve the installed agents to Flyte's engines."),
    "agents": ("airside.cli.agents:agents", "List the agents that are installed, or those of a service."),
    "jobs": ("airside.cli.jobs:jobs", "See, await, cancel and repeat detached jobs."),
    "engine": ("airside.cli.engine:engine", "Drive detached jobs to their ends."),
    "check": ("airside.cli.check:check", "Try an agent against the rules that Flyte's engines rely on."),
    "doctor": ("airside.cli.doctor:doctor", "Find out what is wrong with an installation, and what to do."),
    "new": ("airside.cli.new:new", "Write a complete, tested, installable agent package."),
    "demo": ("airside.cli.demo:demo", "Run real tasks on real data through a served agent."),
}


class Commands(click.Group):
    """A group that imports a subcommand when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            raise click.UsageError(f"There is no command {cmd_name!r} (commands: {', '.join(COMMANDS)}).", ctx)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", message="airside %(version)s")
@click.option("--debug", is_flag=True, help="On an error, print the traceback too.")
def airside(debug: bool) -> None:
    """The agent service for Flyte: write agents, serve them, run tasks.

    \b
    Example:
      airside run wf.py my_task --x 3

    Exit codes: 0 success, 1 the task failed, 2 wrong usage, 3 nothing answers at the endpoint, 130 interrupted.
    """
    del debug  # read by `main`, which prints the errors


# What the system says when what we print cannot be stored.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code."""
    _open_closed_streams()
    _leave(execute(sys.argv[1:] if arguments is None else list(arguments)))


def execute(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Errors are printed in one sentence, on stderr."""
    debug = bool(arguments) and arguments[0] == "--debug"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its library prints lines of its own, into JSON logs too
    if os.environ.get("SSL_CERT_FILE"):  # what other programs trust, gRPC is to trust, too
        os.environ.setdefault("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", os.environ["SSL_CERT_FILE"])
    try:
        code = airside.main(list(arguments), prog_name="airside", standalone_mode=False)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away: `airside agents | head -1`
        _drop_output()
        return Exit.FAILED
    except Exception as exc:  # noqa: BLE001 - whatever it is, a person reads a sentence
        if debug:
            click.echo(redact(traceback.format_exc()), err=True, nl=False)
        return _report(exc)
    return code if isinstance(code, int) else Exit.OK


def _report(exc: Exception) -> int:
    if isinstance(exc, AirsideError):
        click.echo(f"Error: {redact(str(exc))}", err=True)
        return _code_of(exc)
    if isinstance(exc, OSError) and exc.errno in _NO_ROOM and exc.filename is None:  # it was stdout
        _drop_output()
        click.echo(f"Error: The output cannot be written: {exc.strerror}.", err=True)
        return Exit.FAILED
    text = " ".join(redact(str(exc)).split())
    what = f"{type(exc).__name__}: {text}" if text else type(exc).__name__
    click.echo(f"Error: unexpected {what}; run with `airside --debug ...` for the traceback.", err=True)
    return Exit.INTERNAL


def _code_of(exc: AirsideError) -> int:
    match exc:
        case Retry():  # nothing but a service that does not answer lets one through
            return Exit.UNREACHABLE
        case UsageError() | ConversionError():
            return Exit.USAGE
        case TaskError():
            return Exit.FAILED
    return Exit.FAILED


def _open_closed_streams() -> None:
    """Give a standard stream that the caller closed (`>&-`) the null device: Python leaves it None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - for good


def _drop_output() -> None:
    """Let what is still to be printed go nowhere, so that the interpreter's last flush does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(code: int) -> NoReturn:
    """End the process, also if a thread of an agent hangs in a call that cannot be stopped."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)


def echo_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    import json

    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))
