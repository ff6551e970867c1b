"""`airside check TARGET`: the conformance cases against an agent, and a report of what it keeps and what it breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from airside.cli.exits import Exit
from airside.model import ConversionError, TaskTemplate, UsageError

if TYPE_CHECKING:
    from airside.testing.conformance import Result


@click.command()
@click.argument("target")
@click.option("--task", "task_name", metavar="FILE:TASK", help="Try it with this task. [default: one without inputs]")
@click.option("--inputs-file", metavar="FILE", help="The task's inputs as one JSON object.")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="One input; VALUE is JSON, or else text. Repeatable."
)
@click.option("--only", multiple=True, metavar="CASE", help="Try only this case, such as S07. Repeatable.")
@click.option("--wire", type=click.Choice(["v1", "v2"]), help="Try only this generation of Flyte. [default: both]")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    default=30.0,
    help="For a call, and for a job. [default: 30]",
)
@click.option("--slow", is_flag=True, help="Try the cases that take minutes, too.")
@click.option("--settings", "settings_file", metavar="FILE", help="Read this file instead of ./airside.toml.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object on stdout.")
def check(
    *,
    target: str,
    task_name: str | None,
    inputs_file: str | None,
    inputs: tuple[str, ...],
    only: tuple[str, ...],
    wire: str | None,
    timeout: float,
    slow: bool,
    settings_file: str | None,
    as_json: bool,
) -> int:
    """Try an agent against the rules that Flyte's engines rely on, and report each case.

    TARGET is module:Class or path/file.py:Class. The agent is served on loopback and called over real gRPC; it
    starts real jobs, about ten for each generation of Flyte, and deletes them afterwards.

    \b
    Examples:
      airside check my_package:MyAgent --task tasks.py:my_task --input x=3
      airside check agent.py:MyAgent --only S13 --only S33

    Exit codes: 0 every case that applies passed, 1 some failed, 2 wrong usage.
    """
    from airside.testing import check_agent
    from airside.testing.client import WIRES

    if target.rpartition(":")[2].isdigit():
        raise UsageError(f"{target} is an address; TARGET is an agent's class: module:Class or path/file.py:Class.")
    task = _task(task_name)
    report = check_agent(
        target,
        task=task,
        inputs=_inputs(task, inputs_file, inputs),
        options=_options(target, settings_file),
        wires=WIRES if wire is None else [one for one in WIRES if one == wire],
        only=only,
        timeout=timeout,
        slow=slow,
        watch=None if as_json else _show,
    )
    click.echo(report.to_json() if as_json else report.summary())
    return Exit.OK if report.ok else Exit.FAILED


def _task(name: str | None) -> TaskTemplate | None:
    if name is None:
        return None
    from airside.cli.taskfile import load_file

    file, _, task = name.rpartition(":")
    if not file:
        raise UsageError(f"--task {name}: write FILE:TASK, as in tasks.py:my_task")
    return load_file(file).find(task)


def _inputs(task: TaskTemplate | None, file: str | None, given: tuple[str, ...]) -> dict[str, Any]:
    """The inputs by name: typed by the task if there is one, else by their values."""
    from airside.cli.flags import read_inputs_file
    from airside.cli.inputs import from_text

    values = read_inputs_file(file, task) if file else {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise UsageError(f"--input {one}: write NAME=VALUE, as in x=3")
        if task is not None and name not in task.inputs:
            raise ConversionError(
                f"inputs.{name}", f"not an input of {task.name} (inputs: {', '.join(task.inputs) or 'none'})"
            )
        values[name] = from_text(text, Any if task is None else task.inputs[name], f"inputs.{name}")
    return values


def _options(target: str, settings_file: str | None) -> Any:
    from airside.cli.registry import options_table
    from airside.cli.settings import load_settings
    from airside.testing.target import find_agent

    return options_table(load_settings(settings_file), find_agent(target)())[0]


def _show(result: Result) -> None:
    click.echo(str(result))
    if result.status.value == "failed":
        for exchange in result.exchanges:
            click.echo(f"    {exchange.method}  sent {exchange.sent}  received {exchange.received}")
