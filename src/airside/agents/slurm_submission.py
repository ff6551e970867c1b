"""What is asked of Slurm for one task: a template's settings, read, checked, and made into the words of a command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airside.agents.json_values import Kind, kind_of
from airside.agents.placeholders import render, text_of
from airside.model import Fail, Task

MARK = "airside:"
"""What the comment of a job begins with; the key follows."""

_KEYS = ("ssh_config", "rest_config", "sbatch_config", "batch_script_args", "batch_script_path", "script")
_IGNORED = ("python_input_types", "output_locs", "secrets", "configs")
_OPTION = re.compile(r"[a-z][a-z0-9-]*\Z")
_NOT_OURS = {  # options that would change what sbatch itself does or says
    "help": "it runs no job",
    "parsable": "the agent sets it",
    "quiet": "the agent reads what sbatch says",
    "test-only": "it runs no job",
    "usage": "it runs no job",
    "version": "it runs no job",
    "wait": "the agent waits itself",
    "wrap": "the task has a script",
}
_LONGEST_VARIABLE = 120_000  # bytes: Linux takes 128 KiB for one, with its name
_SHELLS = ("sh", "bash", "zsh", "dash", "ksh")
_REFERENCE = re.compile(r"\{(inputs|outputs)\.(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One job for sbatch.

    script: the batch script; empty if `path` names one on the cluster. options: of sbatch, by long name; None for a
    flag. files: output files on the cluster by name; values: kinds of the outputs that the script writes as JSON.
    """

    key: str
    name: str
    script: str = ""
    path: str = ""
    args: Sequence[str] = ()
    options: Mapping[str, str | None] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def comment(self) -> str:
        """The comment by which the job is found again, before the task's own."""
        return f"{MARK}{self.key} {self.options.get('comment') or ''}".strip()


def is_of(key: str, comment: str) -> bool:
    """True if a job with this comment was made for this key.

    >>> is_of("0a", "airside:0a nightly run"), is_of("0a", "airside:0ab"), is_of("", "airside:")
    (True, False, False)
    """
    return bool(key) and comment.partition(" ")[0] == f"{MARK}{key}"


def read_submission(task: Task) -> Submission:
    """The job that a task asks for. `Fail` names what is wrong."""
    config = dict(task.config)
    for key in config:
        if key not in (*_KEYS, *_IGNORED):
            raise Fail(f"config.{key}: a slurm task knows no such key (known: {', '.join(_KEYS)}).")
    is_function = task.type.name == "slurm_fn"
    options = _options(config.get("sbatch_config") or {})
    args = _texts(config.get("batch_script_args") or [], "config.batch_script_args")
    env = {} if task.container is None else dict(task.container.env)
    env |= {_variable(name): _variable_text(name, value) for name, value in task.inputs.items()}
    places = _locations(config.get("output_locs") or [], task)
    values = {name: kind_of(hint) for name, hint in task.interface.outputs.items() if name not in places}
    others = {"outputprefix": task.output_prefix, "perretryuniquekey": task.key}
    common: dict[str, Any] = {
        "key": task.key,
        "name": _job_name(task),
        "options": _with_environment(options, env),
        "env": env,
        "args": [render(one, task.inputs, others) for one in args],
        "files": places,
        "values": {} if is_function else values,
    }
    if is_function:
        return Submission(script=_function_script(task, config.get("script"), others), **common)
    script, path = config.get("script") or "", config.get("batch_script_path") or ""
    if not isinstance(script, str) or not isinstance(path, str) or bool(script) == bool(path):
        raise Fail("A slurm task needs either config.script, a batch script, or config.batch_script_path, its path.")
    if path:
        return Submission(path=path, **common)
    return Submission(script=_fill_in(_checked(script), task, places), **common)


def sbatch_words(submission: Submission) -> list[str]:
    """The options of sbatch, one word each, whatever their values hold.

    >>> sbatch_words(Submission(key="k", name="n", options={"partition": "a b; rm -rf /", "exclusive": None}))
    ['--parsable', '--comment=airside:k', '--partition=a b; rm -rf /', '--exclusive']
    """
    words = ["--parsable", f"--comment={submission.comment}"]
    for name, value in submission.options.items():
        if name != "comment":
            words.append(f"--{name}" if value is None else f"--{name}={value}")
    return words


def _options(told: Any) -> dict[str, str | None]:
    if not isinstance(told, Mapping):
        raise Fail("config.sbatch_config must map options of sbatch to their values.")
    options: dict[str, str | None] = {}
    for name, value in told.items():
        if not _OPTION.match(name):
            raise Fail(f"config.sbatch_config: {name!r} is no long option of sbatch; write partition, not -p.")
        if name in _NOT_OURS:
            raise Fail(f"config.sbatch_config.{name}: leave it out, {_NOT_OURS[name]}.")
        if value is False:
            continue
        is_flag = value is None or value is True or value == ""
        if not is_flag and not isinstance(value, str | int | float):
            raise Fail(f"config.sbatch_config.{name} must be a text, a number or true.")
        if isinstance(value, str) and ("\0" in value or "\n" in value):
            raise Fail(f"config.sbatch_config.{name} must be one line.")
        options[name] = None if is_flag else f"{value:g}" if isinstance(value, float) else str(value)
    return options


def _with_environment(options: dict[str, str | None], env: Mapping[str, str]) -> dict[str, str | None]:
    """Let the job see the variables of the task also if it is to see only some."""
    export = options.get("export")
    if export is None or "ALL" in export.split(","):
        return options
    names = [*env, "AIRSIDE_KEY", "AIRSIDE_OUTPUT_DIR"]
    kept = [] if export in ("NONE", "NIL") else [export]
    return {**options, "export": ",".join([*kept, *names])}


def _texts(told: Any, where: str) -> list[str]:
    if not isinstance(told, list) or not all(isinstance(one, str | int | float) for one in told):
        raise Fail(f"{where} must be a list of texts.")
    return [one if isinstance(one, str) else text_of(one) for one in told]


def _locations(told: Any, task: Task) -> dict[str, str]:
    places = {}
    for one in told if isinstance(told, list) else [told]:
        match one:
            case {"var": str() as name, "location": str() as location}:
                places[name] = _REFERENCE.sub(lambda match: text_of(_input(task, match[2])), location)
            case _:
                raise Fail("config.output_locs must be a list of objects with var and location.")
    return places


def _input(task: Task, name: str) -> Any:
    if name not in task.inputs:
        known = ", ".join(task.inputs) or "none"
        raise Fail(f"The task's text asks for the input {name!r}, which is not there (inputs: {known}).")
    return task.inputs[name]


def _checked(script: str) -> str:
    if not script.startswith("#!"):
        raise Fail("config.script: its first line must name an interpreter, such as #!/bin/bash.")
    if "\0" in script:
        raise Fail("config.script: no NUL characters in a script.")
    return script.replace("\r\n", "\n")


def _fill_in(script: str, task: Task, places: Mapping[str, str]) -> str:
    """The script with its references to inputs and output files filled in: as variables, quoted where it has none."""

    def fill(match: re.Match[str]) -> str:
        scope, name = match[1], match[2]
        if scope == "outputs":
            if name not in places:
                raise Fail(f"The script names the output {name!r}, which has no location (output_locs).")
            return shlex.quote(places[name])
        _input(task, name)
        return f"${{{_variable(name)}}}"

    if not _REFERENCE.search(script):
        return script
    if _interpreter(script) not in _SHELLS:
        raise Fail("{inputs.NAME} is for shell scripts; others read the variable AIRSIDE_INPUT_NAME.")
    return _REFERENCE.sub(fill, script)


def _interpreter(script: str) -> str:
    """The program of the first line: "bash" for "#!/usr/bin/env bash" and for "#!/bin/bash -l"."""
    words = script.partition("\n")[0].removeprefix("#!").split()
    names = [word.rpartition("/")[2] for word in words if not word.startswith("-")]
    return (names[1] if names[:1] == ["env"] and len(names) > 1 else names[0]) if names else ""


def _function_script(task: Task, template: Any, others: Mapping[str, str]) -> str:
    container = task.container
    words = [] if container is None else [*container.command, *container.args]
    if not words:
        raise Fail("A slurm_fn task needs a container with a command.")
    command = shlex.join(render(word, task.inputs, others) for word in words)
    if not template:
        return f"#!/bin/bash -i\n{command}\n"
    if not isinstance(template, str) or "{task.fn}" not in template:
        raise Fail("config.script must be a batch script with {task.fn} where the task's command goes.")
    return _checked(template).replace("{task.fn}", command)


def _variable(name: str) -> str:
    return "AIRSIDE_INPUT_" + re.sub(r"\W", "_", name)


def _variable_text(name: str, value: Any) -> str:
    text = text_of(value)
    if "\0" in text:
        raise Fail(f"inputs.{name} has a NUL character, which no variable of a job can have; put it into a file.")
    if len(text.encode("utf-8", "surrogatepass")) > _LONGEST_VARIABLE:
        raise Fail(f"inputs.{name} is over {_LONGEST_VARIABLE} bytes, too long for a variable; put it into a file.")
    return text


def _job_name(task: Task) -> str:
    name = task.execution.task_name.rpartition(".")[2] or "task"
    return re.sub(r"[^\w.-]", "_", name)[:60]
