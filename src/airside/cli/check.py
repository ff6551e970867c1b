"""`airside check TARGET`: the conformance cases against an agent or a service, and a report of what it keeps."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from airside.cli.endpoint import EndpointOptions, endpoint_flags, read_endpoint
from airside.cli.exits import Exit
from airside.model import ConversionError, TaskTemplate, TaskType, UsageError

if TYPE_CHECKING:
    from airside.testing.conformance import Report, Result, Template


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """The options of one `airside check`."""

    task: str | None
    template: str | None
    task_type: str | None
    inputs_file: str | None
    inputs: tuple[str, ...]
    bad_inputs: tuple[str, ...]
    only: tuple[str, ...]
    family: str | None
    timeout: float
    slow: bool
    start: str | None
    output_prefix: str
    settings: str | None
    access: EndpointOptions


@click.command()
@click.argument("target")
@click.option("--task", metavar="FILE:TASK", help="Try it with this task. [default: one without inputs]")
@click.option("--template", metavar="FILE", help="Try it with this task template: protobuf, or JSON in a .json file.")
@click.option("--task-type", metavar="NAME[:VERSION]", help="Try this task type of a service that has several.")
@click.option("--inputs-file", metavar="FILE", help="The task's inputs as one JSON object, or an inputs.pb.")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="One input; VALUE is JSON, or else text. Repeatable."
)
@click.option(
    "--bad-input",
    "bad_inputs",
    multiple=True,
    metavar="NAME=VALUE",
    help="An input that makes the task fail, for the cases about failures. Repeatable.",
)
@click.option("--only", multiple=True, metavar="CASE", help="Try only this case, such as S07. Repeatable.")
@click.option(
    "--family",
    type=click.Choice(["v1", "v2"]),
    help="Try only this generation of Flyte. [default: each that is served]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    default=30.0,
    help="For a call, and for a job. [default: 30]",
)
@click.option("--slow", is_flag=True, help="Try the cases that take minutes, too.")
@click.option("--start", metavar="COMMAND", help="Start the service at HOST:PORT with this command, and stop it.")
@click.option(
    "--output-prefix",
    metavar="URI",
    default="",
    help="Where a service elsewhere may write outputs. [default: a folder of this machine]",
)
@endpoint_flags
@click.option("--settings", metavar="FILE", help="Read this file instead of ./airside.toml.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object on stdout.")
@click.option("--junit", "junit_file", metavar="FILE", help="Write the report to this file as JUnit XML, too.")
def check(*, target: str, as_json: bool, junit_file: str | None, **options: Any) -> int:
    """Try an agent, or a service in any language, against the rules that Flyte's engines rely on.

    TARGET is HOST:PORT, or an agent's class: module:Class or path/file.py:Class. A class is served on loopback and
    called over real gRPC; a service is asked which generations of Flyte it serves, and tried on each. Real jobs are
    started, about ten for each generation, and deleted afterwards.

    \b
    Examples:
      airside check my_package:MyAgent --task tasks.py:my_task --input x=3
      airside check localhost:8000 --task-type my_type --input x=3 --bad-input x=-1
      airside check localhost:8000 --start "./my-service --port 8000" --junit report.xml

    Exit codes: 0 no case failed, 1 some failed, 2 wrong usage, 3 nothing answers at HOST:PORT.
    """
    access = read_endpoint(target if _is_endpoint(target) else None, options)
    own = {field.name: options[field.name] for field in fields(CheckOptions) if field.name != "access"}
    given = CheckOptions(access=access, **own)
    watch = None if as_json else _show
    if junit_file is not None:
        _write(junit_file, "")  # learn now, not after minutes, that it cannot be written
    report = _check_endpoint(target, given, watch) if _is_endpoint(target) else _check_agent(target, given, watch)
    if junit_file is not None:
        _write(junit_file, report.to_junit())
    click.echo(report.to_json() if as_json else report.summary())
    return Exit.OK if report.ok else Exit.FAILED


def _is_endpoint(target: str) -> bool:
    return target.startswith(("unix:", "dns:")) or target.rpartition(":")[2].isdigit()


def _check_agent(target: str, given: CheckOptions, watch: Any) -> Report:
    from airside.testing import check_agent

    elsewhere = {"--start": given.start, "--output-prefix": given.output_prefix, "--template": given.template}
    for flag, value in (*elsewhere.items(), ("--task-type", given.task_type)):
        if value:
            raise UsageError(f"{flag} is for a service at HOST:PORT, but {target} is an agent's class.")
    task = _task(given.task)
    inputs = _inputs(task, given.inputs_file, given.inputs)
    if isinstance(inputs, bytes):
        raise UsageError(f"--inputs-file {given.inputs_file}: for an agent's class, give the inputs as JSON.")
    return check_agent(
        target,
        task=task,
        inputs=inputs,
        bad_inputs=_pairs("--bad-input", task, given.bad_inputs) or None,
        options=_options(target, given.settings),
        wires=_wires(given.family),
        only=given.only,
        timeout=given.timeout,
        slow=given.slow,
        watch=watch,
    )


def _check_endpoint(target: str, given: CheckOptions, watch: Any) -> Report:
    from airside.testing.conformance import check_endpoint, read_template_file

    if given.settings:
        raise UsageError(f"--settings is for an agent's class, but {target} is a service with settings of its own.")
    if given.task and given.template:
        raise UsageError("Give --task or --template, not both.")
    task: TaskTemplate | Template | None = _task(given.task)
    if given.template:
        task = read_template_file(given.template)
    return check_endpoint(
        target,
        task=task,
        task_type=_task_type(given.task_type),
        inputs=_inputs(task, given.inputs_file, given.inputs),
        bad_inputs=_pairs("--bad-input", task, given.bad_inputs) or None,
        prefix=given.output_prefix,
        wires=_wires(given.family),
        only=given.only,
        timeout=given.timeout,
        slow=given.slow,
        command=_command(given.start),
        watch=watch,
        **given.access.access(),
    )


def _wires(family: str | None) -> Any:
    from airside.testing.client import WIRES

    return WIRES if family is None else [one for one in WIRES if one == family]


def _task(name: str | None) -> TaskTemplate | None:
    if name is None:
        return None
    from airside.cli.taskfile import load_file

    file, _, task = name.rpartition(":")
    if not file:
        raise UsageError(f"--task {name}: write FILE:TASK, as in tasks.py:my_task")
    return load_file(file).find(task)


def _task_type(text: str | None) -> str | TaskType | None:
    if text is None:
        return None
    name, colon, version = text.rpartition(":")
    if not colon:
        return text
    if not name or not version.isdigit():
        raise UsageError(f"--task-type {text}: write NAME or NAME:VERSION, as in my_type:1")
    return TaskType(name, int(version))


def _command(text: str | None) -> list[str]:
    if text is None:
        return []
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise UsageError(f"--start {text}: {str(exc).lower()}") from None
    if not words:
        raise UsageError("--start needs a command.")
    return words


def _inputs(task: Any, file: str | None, given: tuple[str, ...]) -> dict[str, Any] | bytes:
    """The inputs by name: typed by the task if there is one, else by their values. Or all of them as protobuf."""
    from airside.cli.flags import read_inputs_file
    from airside.cli.inputs import from_json

    if file and file.endswith(".pb"):
        if given:
            raise UsageError(f"--inputs-file {file} holds all inputs; leave out --input.")
        try:
            return Path(file).read_bytes()
        except OSError as exc:
            raise UsageError(f"Inputs file {file} cannot be read: {exc.strerror}.") from None
    plain = read_inputs_file(file, None) if file else {}
    values = {name: from_json(value, _kind(task, name), f"inputs.{name}") for name, value in plain.items()}
    return {**values, **_pairs("--input", task, given)}


def _pairs(flag: str, task: Any, given: tuple[str, ...]) -> dict[str, Any]:
    from airside.cli.inputs import from_text

    values = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag} {one}: write NAME=VALUE, as in x=3")
        values[name] = from_text(text, _kind(task, name), f"inputs.{name}")
    return values


def _kind(task: Any, name: str) -> Any:
    if task is not None and name not in task.inputs:
        raise ConversionError(
            f"inputs.{name}", f"not an input of {task.name} (inputs: {', '.join(task.inputs) or 'none'})"
        )
    return Any if task is None else task.inputs[name]


def _options(target: str, settings_file: str | None) -> Any:
    from airside.cli.registry import options_table
    from airside.cli.settings import load_settings
    from airside.testing.target import find_agent

    return options_table(load_settings(settings_file), find_agent(target)())[0]


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"--junit {file} cannot be written: {exc.strerror}.") from None


def _show(result: Result) -> None:
    click.echo(str(result))
    if result.status.value == "failed":
        for exchange in result.exchanges:
            click.echo(f"    {exchange}")
