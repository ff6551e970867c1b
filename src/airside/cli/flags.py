"""The flags of `airside run FILE TASK`, made from the task's declared inputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from airside.cli.inputs import from_json, from_text, strip, type_name
from airside.cli.values import to_json
from airside.model import ConversionError, TaskTemplate, UsageError


class InputType(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.5 on
    """A flag whose text is read as the declared type of one input."""

    def __init__(self, annotation: Any, path: str) -> None:
        self.annotation = annotation
        self.path = path
        self.name = type_name(annotation)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value; `ConversionError` with the input's path if the text does not fit."""
        del param, ctx
        return from_text(value, self.annotation, self.path) if isinstance(value, str) else value


class InputOption(click.Option):
    """A flag for the input `input_name`, shown under "Inputs" in the help."""

    def __init__(self, input_name: str, decls: Sequence[str], **attributes: Any) -> None:
        super().__init__(decls, **attributes)
        self.input_name = input_name


def input_options(task: TaskTemplate) -> list[InputOption]:
    """One flag per declared input: `--x TEXT`, or `--flag/--no-flag` for a bool."""
    return [_option(task, name, annotation, place) for place, (name, annotation) in enumerate(task.inputs.items())]


def without_values(options: Sequence[click.Parameter], arguments: Sequence[str]) -> list[str]:
    """The arguments with `--flag true` and `--flag=false` as click takes them: `--flag`, `--no-flag`."""
    on_or_off = [option for option in options if isinstance(option, InputOption) and option.is_flag]
    flags = {spelling: option for option in on_or_off for spelling in option.opts}
    rest, plain = list(arguments), list[str]()
    while rest:
        argument = rest.pop(0)
        spelling, _, value = argument.partition("=")
        option = flags.get(spelling)
        if option and argument == spelling and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        if option and value:
            is_on = from_text(value, bool, f"inputs.{option.input_name}")
            argument = option.opts[0] if is_on else option.secondary_opts[0]
        plain.append(argument)
    return plain


def given_inputs(ctx: click.Context) -> dict[str, Any]:
    """The inputs whose flags are on the command line."""
    return {
        option.input_name: ctx.params[option.name]
        for option in ctx.command.params
        if isinstance(option, InputOption)
        and ctx.get_parameter_source(option.name) is click.core.ParameterSource.COMMANDLINE
    }


def read_inputs_file(path: str, task: TaskTemplate | None) -> dict[str, Any]:
    """The inputs in a JSON file (`-` is stdin), one object by input name, checked against the types of the task."""
    try:
        values = json.loads(sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise UsageError(f"Inputs file {path} cannot be read: {exc.strerror}.") from None
    except ValueError as exc:
        raise UsageError(f"Inputs file {path} is not JSON: {exc}.") from None
    if not isinstance(values, dict):
        raise UsageError(f"Inputs file {path} must hold one JSON object, from input name to value.")
    return values if task is None else {name: _from_file(value, task, name) for name, value in values.items()}


def require_all(task: TaskTemplate, values: Mapping[str, Any]) -> None:
    """Raise `ConversionError` for the inputs that are still missing, with the flags that give them."""
    missing = [name for name in task.inputs if name not in values and name not in task.defaults]
    if not missing:
        return
    flags = " ".join(_usage(name, task.inputs[name]) for name in missing)
    raise ConversionError(", ".join(f"inputs.{name}" for name in missing), f"missing; give {flags}")


def usage_of(task: TaskTemplate) -> str:
    """The flags of a task in one line: `--x int [--y str]`."""
    flags = {name: _usage(name, annotation) for name, annotation in task.inputs.items()}
    return " ".join(f"[{flag}]" if name in task.defaults else flag for name, flag in flags.items())


def _usage(name: str, annotation: Any) -> str:
    if strip(annotation) is bool:
        return f"--{name}/--no-{name}"
    shown = type_name(annotation)
    return f"--{name} {shown}" if " " not in shown else f"--{name} '{shown}'"


def _from_file(value: Any, task: TaskTemplate, name: str) -> Any:
    path = f"inputs.{name}"
    if name not in task.inputs:
        raise ConversionError(path, f"not an input of {task.name} (inputs: {', '.join(task.inputs) or 'none'})")
    return from_json(value, task.inputs[name], path)


def _option(task: TaskTemplate, name: str, annotation: Any, place: int) -> InputOption:
    dashed = name.replace("_", "-")
    spellings = [name] if dashed in task.inputs else [name, dashed]
    text = f"default: {json.dumps(to_json(task.defaults[name]))}" if name in task.defaults else "required"
    if strip(annotation) is bool and not {f"no_{name}", f"no-{name}"} & set(task.inputs):
        flags = [f"--{one}/--no-{one}" for one in spellings]
        return InputOption(name, [*flags, f"input_{place}"], default=None, help=text)
    shown = type_name(annotation)
    return InputOption(
        name,
        [*(f"--{one}" for one in spellings), f"input_{place}"],
        type=InputType(annotation, f"inputs.{name}"),
        metavar=shown,
        help=text,
    )
