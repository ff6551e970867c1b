"""Slurm tasks as their authors write them, with the names and arguments of flytekit's plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airside.model import TaskTemplate, UsageError


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """Where and how a script runs.

    ssh_config: the login node: `host`, and if need be `username`, `port` and `client_keys` (files of the service
        that an operator allows). rest_config: slurmrestd instead: `url`, and if need be `username`. Neither: what
        the service is set to.
    sbatch_config: options of sbatch by their long names: `{"partition": "gpu", "time": "2:00:00"}`; a flag has the
        value True. batch_script_args: the arguments of the script.

    >>> SlurmConfig(ssh_config={"host": "login.example.org"}, sbatch_config={"partition": "gpu"}).sbatch_config
    {'partition': 'gpu'}
    """

    ssh_config: Mapping[str, Any] = field(default_factory=dict)
    sbatch_config: Mapping[str, Any] | None = None
    batch_script_args: Sequence[str] | None = None
    rest_config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SlurmScriptConfig(SlurmConfig):
    """The same for a script that is on the cluster already; `batch_script_path` is where.

    >>> SlurmScriptConfig(ssh_config={"host": "login.example.org"}, batch_script_path="/home/me/train.slurm").host
    'login.example.org'
    """

    batch_script_path: str = ""

    def __post_init__(self) -> None:
        if not self.batch_script_path:
            raise UsageError("SlurmScriptConfig needs a batch_script_path: the script's path on the cluster.")

    @property
    def host(self) -> str:
        """The login node, empty if the service is to choose."""
        return str(self.ssh_config.get("host", ""))


@dataclass(frozen=True, kw_only=True)
class SlurmFunctionConfig(SlurmConfig):
    """The same for the command of a container. `script`: a batch script with `{task.fn}` where the command goes.

    >>> SlurmFunctionConfig(script="#!/bin/bash -l\\nmodule load python\\n{task.fn}\\n").script.splitlines()[-1]
    '{task.fn}'
    """

    script: str | None = None


@dataclass(frozen=True, kw_only=True)
class OutputLocation:
    """A file on the cluster that is an output; `location` may name inputs: `/data/{inputs.run}.csv`.

    >>> from airside import File
    >>> OutputLocation(var="report", var_type=File, location="/data/report.csv").var
    'report'
    """

    var: str
    var_type: Any
    location: str


@dataclass(frozen=True, kw_only=True)
class _SlurmTask(TaskTemplate):
    task_type: str = "slurm"

    def _configure(self, config: SlurmConfig, more: Mapping[str, Any]) -> None:
        told: dict[str, Any] = {
            "ssh_config": dict(config.ssh_config),
            "rest_config": dict(config.rest_config),
            "sbatch_config": dict(config.sbatch_config or {}),
            "batch_script_args": list(config.batch_script_args or ()),
            **more,
        }
        filled = {key: value for key, value in told.items() if value}
        object.__setattr__(self, "config", {**self.config, **filled})
        TaskTemplate.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class SlurmTask(_SlurmTask):
    """A task that runs a script which is on the cluster already.

    Its outputs, if it has any, are read from `$AIRSIDE_OUTPUT_DIR/outputs.json`, an object of values by name that the
    script writes; its inputs are in the variables `AIRSIDE_INPUT_NAME`.

    >>> task = SlurmTask(
    ...     name="nightly",
    ...     task_config=SlurmScriptConfig(
    ...         ssh_config={"host": "login.example.org", "username": "ubuntu"},
    ...         sbatch_config={"partition": "debug", "job-name": "tiny"},
    ...         batch_script_path="/home/ubuntu/echo.slurm",
    ...     ),
    ... )
    >>> task.type.name, task.config["batch_script_path"]
    ('slurm', '/home/ubuntu/echo.slurm')
    """

    task_config: SlurmScriptConfig

    def __post_init__(self) -> None:
        self._configure(self.task_config, {"batch_script_path": self.task_config.batch_script_path})


@dataclass(frozen=True, kw_only=True)
class SlurmShellTask(_SlurmTask):
    """A task that is a batch script. `{inputs.NAME}` and `{outputs.NAME}` in it stand for inputs and output files.

    In a script for a shell they are put in as variables, so that no input can be run as a command; put them in double
    quotes, as any variable. A script for another program reads the variables `AIRSIDE_INPUT_NAME` itself.

    >>> from airside import File
    >>> task = SlurmShellTask(
    ...     name="hello", script="#!/bin/bash\\necho hello, \\"{inputs.who}\\" > {outputs.greeting}\\n",
    ...     task_config=SlurmConfig(ssh_config={"host": "login.example.org"}),
    ...     inputs={"who": str},
    ...     output_locs=[OutputLocation(var="greeting", var_type=File, location="/data/hello.txt")],
    ... )
    >>> task.outputs
    {'greeting': <class 'airside.model.values.File'>}
    """

    task_config: SlurmConfig
    script: str
    output_locs: Sequence[OutputLocation] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", dict(self.inputs or {}))
        places = {one.var: one.location for one in self.output_locs}
        object.__setattr__(self, "outputs", {**self.outputs, **{one.var: one.var_type for one in self.output_locs}})
        located = [{"var": var, "location": location} for var, location in places.items()]
        self._configure(self.task_config, {"script": self.script, "output_locs": located})


@dataclass(frozen=True, kw_only=True)
class SlurmFunctionTask(_SlurmTask):
    """A task that runs the command of its container on the cluster, where its program must be installed.

    flytekit's `@task(task_config=SlurmFunctionConfig(...))` makes such tasks of Python functions; they run as they are.

    >>> from airside import Container
    >>> task = SlurmFunctionTask(
    ...     name="version", task_config=SlurmFunctionConfig(sbatch_config={"partition": "debug"}),
    ...     container=Container(args=("python3", "--version")),
    ... )
    >>> task.type.name
    'slurm_fn'
    """

    task_type: str = "slurm_fn"
    task_config: SlurmFunctionConfig

    def __post_init__(self) -> None:
        if self.container is None:
            raise UsageError(f"Task {self.name!r} needs a container with the command to run.")
        self._configure(self.task_config, {"script": self.task_config.script})


__all__ = (
    "OutputLocation",
    "SlurmConfig",
    "SlurmFunctionConfig",
    "SlurmFunctionTask",
    "SlurmScriptConfig",
    "SlurmShellTask",
    "SlurmTask",
)
