"""`airside run FILE TASK`: three commands inside each other, since each word decides what the next may be.

`airside run` reads FILE, FILE's command knows the tasks in it, and a task's command knows its inputs. Options of
the run may stand at any of the three places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import click

from airside.cli.durations import read_duration
from airside.cli.endpoint import EndpointOptions, check_endpoint, endpoint_options
from airside.cli.exits import Exit
from airside.cli.flags import given_inputs, input_options, read_inputs_file, require_all, usage_of, without_values
from airside.cli.taskfile import TaskFile, load_file
from airside.model import TaskTemplate, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(EndpointOptions):
    """The options of one `airside run`."""

    inputs_file: str | None = None
    modules: tuple[str, ...] = ()
    timeout: float | None = None
    retries: int | None = None
    on_interrupt: str = "cancel"
    as_json: bool = False
    settings: str | None = None
    detached: bool = False
    config: str | None = None
    containers: str | None = None
    project: str = ""
    domain: str = ""
    no_cache: bool = False
    state: str | None = None
    outputs: str | None = None


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.5 on
    """A duration above 0, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; a usage error for anything else."""
        try:
            seconds = read_duration(str(value)).total_seconds()
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if seconds <= 0:
            self.fail("it must be longer than 0", param, ctx)
        return seconds


def _options() -> list[click.Option]:
    return [
        click.Option(
            ["--endpoint"],
            metavar="HOST:PORT",
            help="Run it on the agent service at this address, not in this process.",
        ),
        *endpoint_options(),
        click.Option(
            ["--config"], metavar="FILE", help="Run it where this YAML file of a Flyte engine sends its task type."
        ),
        click.Option(
            ["--containers"],
            metavar="AGENT",
            help="With --config: run what is routed to `container` with this agent here, such as local_process.",
        ),
        click.Option(["--project"], metavar="NAME", help="The Flyte project that the task belongs to."),
        click.Option(["--domain"], metavar="NAME", help="The Flyte domain that the task belongs to."),
        click.Option(["--inputs-file"], metavar="FILE", help="Inputs as one JSON object (-: stdin); flags win."),
        click.Option(
            ["--modules", "-m"], multiple=True, metavar="MODULE", help="Import a module that registers agents."
        ),
        click.Option(
            ["--timeout"], type=Duration(), metavar="TIME", help="Cancel an attempt after this long: 90s, 1h30m."
        ),
        click.Option(
            ["--retries"], type=click.IntRange(min=0), metavar="N", help="Further attempts after a retryable failure."
        ),
        click.Option(
            ["--on-interrupt"],
            type=click.Choice(["cancel", "detach"]),
            help="What Ctrl-C does: cancel the job and wait (the default), or leave it running.",
        ),
        click.Option(
            ["--detach", "detached"], is_flag=True, help="Hand it to the engine and end; `airside jobs` tells the rest."
        ),
        click.Option(["--no-cache"], is_flag=True, help="Run it even if the outputs of a cached task are known."),
        click.Option(
            ["--state"],
            metavar="DIR",
            help="The folder of its job and its files; `:memory:` keeps no job. [env: AIRSIDE_STATE]",
        ),
        click.Option(
            ["--outputs"],
            metavar="URI",
            help="Where inputs and outputs are kept, such as s3://bucket/runs, for agents on other machines.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the outcome as one JSON object on stdout."),
        click.Option(["--settings"], metavar="FILE", help="Read this file instead of ./airside.toml."),
    ]


def run_options(ctx: click.Context | None) -> RunOptions:
    """The options given on the command line, the innermost place winning."""
    given: dict[str, Any] = {}
    names = {field.name for field in fields(RunOptions)}
    while ctx is not None:
        for name in names & set(ctx.params):
            if name not in given and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                given[name] = ctx.params[name]
        ctx = ctx.parent
    options = RunOptions(**given)
    check_endpoint(options)
    if options.config and options.endpoint:
        raise UsageError("--config and --endpoint both say where to run it: give one of them.")
    if options.containers and not options.config:
        raise UsageError("--containers is for what --config routes: give that, too.")
    if options.detached and options.state == ":memory:":
        raise UsageError("--detach needs a store that outlives this command, not --state :memory:.")
    return options


class RunCommand(click.Group):
    """`airside run`: its subcommands are files."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        return FileCommand(load_file(cmd_name))

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return []

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        del ctx
        return ["[OPTIONS]", "FILE", "TASK", "[--INPUT VALUE ...]"]


class FileCommand(click.Group):
    """`airside run FILE`: its subcommands are the tasks in the file. Without one, it lists them."""

    def __init__(self, file: TaskFile) -> None:
        first = next(iter(file.tasks.items()), None)
        example = f" {first[0]} {usage_of(first[1])}".rstrip() if first else ""
        text = (
            f"Run one of the tasks in {file.name}. Without TASK: list them."
            f"\n\n\b\nExample:\n  airside run {file.name}{example}"
        )
        super().__init__(file.name, params=[*_options()], callback=self._list, invoke_without_command=True, help=text)
        self.file = file
        self.subcommand_metavar = "TASK [--INPUT VALUE ...]"

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        return TaskCommand(self.file, self.file.find(cmd_name))

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.file.tasks)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Tasks"):
            formatter.write_dl([(name, _summary(task)) for name, task in self.file.tasks.items()])

    def _list(self, **_: Any) -> int | None:
        ctx = click.get_current_context()
        if ctx.invoked_subcommand is not None:
            return None
        if run_options(ctx).as_json:
            from airside.cli.main import echo_json

            echo_json([_described(name, task) for name, task in self.file.tasks.items()])
            return Exit.OK
        if not self.file.tasks:
            raise UsageError(f"{self.file.name} defines no task; a task is a TaskTemplate in a variable of the file.")
        click.echo(f"Tasks in {self.file.name}:")
        for name, task in self.file.tasks.items():
            click.echo(f"  {name} {usage_of(task)}".rstrip())
            click.echo(f"      {_summary(task)}")
        return Exit.OK


class TaskCommand(click.Command):
    """`airside run FILE TASK`: its flags are the task's inputs. An input named like an option of the run wins."""

    def __init__(self, file: TaskFile, task: TaskTemplate) -> None:
        inputs = input_options(task)
        taken = {spelling for option in inputs for spelling in (*option.opts, *option.secondary_opts)}
        rest = [option for option in _options() if not taken & {*option.opts, *option.secondary_opts}]
        example = f"\b\nExample:\n  airside run {file.name} {task.name} {usage_of(task)}"
        super().__init__(
            task.name, params=[*inputs, *rest], callback=self._run, help=_help(task), epilog=example.rstrip()
        )
        self.file = file
        self.task = task

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, without_values(self.params, args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        inputs = [option for option in self.params if option.name and option.name.startswith("input_")]
        for title, options in (("Inputs", inputs), ("Options", [o for o in self.get_params(ctx) if o not in inputs])):
            records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def _run(self, **_: Any) -> int:
        ctx = click.get_current_context()
        options = run_options(ctx)
        values = read_inputs_file(options.inputs_file, self.task) if options.inputs_file else {}
        values |= given_inputs(ctx)
        require_all(self.task, values)
        if options.detached:
            from airside.cli.detach import detach

            return detach(self.task, values, self.file, options)
        from airside.cli.launch import launch

        return launch(self.task, values, self.file, options)


def _described(name: str, task: TaskTemplate) -> dict[str, Any]:
    from airside.cli.inputs import type_name
    from airside.cli.values import to_json

    return {
        "variable": name,
        "name": task.name,
        "task_type": str(task.type),
        "doc": task.doc,
        "inputs": {one: type_name(kind) for one, kind in task.inputs.items()},
        "defaults": to_json(task.defaults),
        "outputs": {one: type_name(kind) for one, kind in task.outputs.items()},
    }


def _summary(task: TaskTemplate) -> str:
    first = task.doc.strip().splitlines()[:1]
    return f"{first[0]} (task type {task.type})" if first else f"task type {task.type}"


def _help(task: TaskTemplate) -> str:
    from airside.cli.inputs import type_name

    outputs = ", ".join(f"{name} ({type_name(kind)})" for name, kind in task.outputs.items()) or "none"
    name = "" if task.doc.strip() else f"Run {task.name}."
    return "\n\n".join(
        part for part in (task.doc.strip(), name, f"Task type: {task.type}. Outputs: {outputs}.") if part
    )


def _params() -> Sequence[click.Parameter]:
    return _options()


run = RunCommand(
    "run",
    params=[*_params()],
    subcommand_metavar="FILE TASK",
    no_args_is_help=True,
    help="""Run a task of FILE in this process, or on a served agent, and print its outputs.

    FILE is a Python file or a module; TASK is a variable in it that holds a TaskTemplate. Its inputs are flags:
    see `airside run FILE TASK --help`. Without TASK, the tasks in FILE are listed. Progress goes to stderr, the
    outputs to stdout.

    Ctrl-C cancels the job and waits until it is over; a second Ctrl-C ends at once, and names the command that takes
    the job up again.

    \b
    Examples:
      airside run wf.py
      airside run wf.py my_task --x 3 --names '["a", "b"]'
      airside run --endpoint localhost:8000 --json wf.py my_task --inputs-file inputs.json
      airside run --config flyte.yaml wf.py my_task --x 3
      airside run --detach wf.py my_task --x 3

    Exit codes: 0 the task succeeded, 1 it failed, 2 wrong usage, 3 nothing answers at the endpoint, 130 interrupted.
    """,
)
