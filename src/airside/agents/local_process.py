"""`local_process`: a task that is a process on the machine of the service, and `ProcessTask` to write one.

The process finds, in its environment,

- `AIRSIDE_INPUTS`: a JSON file with the inputs by name (files and tables as their uri, times in ISO 8601,
  durations in seconds, bytes in base64);
- `AIRSIDE_OUTPUT_DIR`: the directory for its outputs, as one of: `outputs.json`, an object of values by name;
  `outputs.pb`, Flyte's own format; or one file for each output, named after it, that holds the value or, for
  an output of type `File`, is the output;
- `AIRSIDE_KEY`: what names this attempt of the task, 32 hex digits.

It may say why it failed in `error.json` there: `{"message": ..., "code": ..., "retryable": true}`. Otherwise an
exit status other than 0 fails the attempt in a way that the task's `retries` repeat, as Flyte does for containers.

The process survives a restart of the service, if whoever restarts it lets it: under systemd, set
`KillMode=process`. What the process starts in its own process group ends with it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airside.agents.flyte_container import flyte_variables
from airside.agents.jobs import Job, Launch, passed_environment
from airside.agents.json_values import to_json
from airside.agents.placeholders import render, text_of
from airside.agents.supervised import JobOptions, SupervisedAgent, output_directory, output_notes
from airside.model import Container, Fail, Task, TaskTemplate, UsageError

INPUTS = "inputs.json"
_KEYS = ("command", "shell", "cwd", "env")
_CONNECTION_KEYS = ("secrets", "configs")  # Flyte 2 puts the connection into the same place


@dataclass(frozen=True, kw_only=True)
class ProcessTask(TaskTemplate):
    """A task that runs a command on the machine of the service.

    command: the program and its arguments, or, with `shell=True`, one line for /bin/sh.
    cwd: its working directory; empty: that of the service.
    env: further environment variables.

    `{{.inputs.NAME}}` in the arguments stands for an input, `{{.outputPrefix}}` for the output directory. In a
    shell line an input is put in as a variable, so that no input can be run as a command; put it in double quotes.

    >>> from airside import kwtypes
    >>> task = ProcessTask(
    ...     name="count", command=["wc", "-l", "{{.inputs.path}}"], inputs=kwtypes(path=str), outputs=kwtypes(n=int)
    ... )
    >>> task.config
    {'command': ['wc', '-l', '{{.inputs.path}}']}
    """

    task_type: str = "local_process"
    command: Sequence[str] | str = ()
    shell: bool = False
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.command, str) and self.command and not self.shell:
            raise UsageError(f"Task {self.name!r}: give the command as a list of words, or set shell=True.")
        command = self.command if isinstance(self.command, str) else list(self.command)
        told = {"command": command, "shell": self.shell, "cwd": self.cwd, "env": dict(self.env)}
        object.__setattr__(self, "config", {**self.config, **{key: value for key, value in told.items() if value}})
        super().__post_init__()


class LocalProcessAgent(SupervisedAgent):
    """Runs the command of a task, or of its container (on this machine: the image is ignored), as a process."""

    name = "local_process"
    task_type = "local_process"

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options(JobOptions):
        """Where jobs are kept and what they may see of the environment: see `JobOptions`.

        cwd: the working directory of commands that name none; empty: that of the service.
        """

        cwd: str = ""

    def open(self, options: Options) -> None:
        self._options = options
        self.open_jobs(options)

    def create(self, task: Task) -> Job:
        request = _read_config(task)
        job, folder = self.jobs.place(task.key)
        directory = output_directory(task, folder)
        filled = _fill_in(request, task, {"outputprefix": str(directory), "perretryuniquekey": task.key})
        env = {
            **passed_environment(self._options.env_allow),
            **(flyte_variables(task) if task.container else {}),
            **task.execution.env,
            **(task.container.env if task.container else {}),
            **filled.env,
            "AIRSIDE_INPUTS": str(folder / INPUTS),
            "AIRSIDE_OUTPUT_DIR": str(directory),
        }
        cwd = Path(self._options.cwd).expanduser().absolute() / Path(filled.cwd).expanduser()
        _check_program(filled.command[0], cwd, env.get("PATH", os.defpath))
        launch = Launch(
            command=filled.command,
            cwd=str(cwd),
            env=env,
            output_dir=directory,
            files={INPUTS: {name: to_json(value) for name, value in task.inputs.items()}},
            notes=output_notes(task, directory),
        )
        self.jobs.start(job, launch)
        return job


@dataclass(frozen=True, slots=True)
class _Request:
    command: list[str]
    shell: bool = False
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def _read_config(task: Task) -> _Request:
    """The command of a task: its config's, else its container's. `Fail` names what is wrong."""
    config = dict(task.config)
    unknown = [key for key in config if key not in (*_KEYS, *_CONNECTION_KEYS)]
    if unknown:
        raise Fail(f"config.{unknown[0]}: a local_process task knows no such key (known: {', '.join(_KEYS)}).")
    shell = config.get("shell", False)
    cwd, env = config.get("cwd", ""), config.get("env", {})
    if not isinstance(shell, bool) or not isinstance(cwd, str):
        raise Fail("config.shell must be true or false, and config.cwd a text.")
    if not isinstance(env, Mapping) or not all(isinstance(value, str) for value in env.values()):
        raise Fail("config.env must map names to texts.")
    command = config.get("command") or _container_command(task.container)
    if shell and isinstance(command, str) and command:
        return _Request([command], shell=shell, cwd=cwd, env=env)
    if shell:
        raise Fail("config.command must be one text, a line for /bin/sh, since config.shell is true.")
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise Fail("A local_process task needs config.command, a list of texts, or a container with a command.")
    return _Request(command, cwd=cwd, env=env)


def _container_command(container: Container | None) -> list[str]:
    return [] if container is None else [*container.command, *container.args]


def _fill_in(request: _Request, task: Task, others: Mapping[str, str]) -> _Request:
    """The request with its placeholders filled in; for a shell, the inputs go into variables."""
    cwd = render(request.cwd, task.inputs, others)
    env = {name: render(value, task.inputs, others) for name, value in request.env.items()}
    if not request.shell:
        return _Request([render(word, task.inputs, others) for word in request.command], cwd=cwd, env=env)

    def as_variable(name: str, value: Any) -> str:
        variable = "AIRSIDE_INPUT_" + re.sub(r"\W", "_", name)
        env[variable] = text_of(value)
        return f"${{{variable}}}"

    line = render(request.command[0], task.inputs, others, as_variable)
    return _Request(["/bin/sh", "-c", line], cwd=cwd, env=env)


def _check_program(program: str, cwd: Path, path: str) -> None:
    """Say at once, and for good, that a command cannot be started."""
    if not cwd.is_dir():
        raise Fail(f"The working directory {cwd} is not there.", code="CannotStart")
    place = str(cwd / program) if "/" in program else program
    if shutil.which(place, path=path) is None:
        where = "is not there or not executable" if "/" in program else f"is in no directory of PATH ({path})"
        raise Fail(f"The program {program!r} {where}.", code="CannotStart")
