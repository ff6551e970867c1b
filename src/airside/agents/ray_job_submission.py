"""What is asked of Ray for one task: its settings, read, checked, and made into the body of a submission."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airside.agents.flyte_container import environment_of, words_of
from airside.agents.json_values import to_json
from airside.agents.placeholders import PLACEHOLDER, render, render_value
from airside.model import Fail, Task, TaskTemplate, UsageError

RAY = "ray"
"""The type of flytekit's and Flyte 2's Ray tasks, whose container is what runs."""

_RESOURCES = ("entrypoint_num_cpus", "entrypoint_num_gpus", "entrypoint_memory")
_TABLES = ("entrypoint_resources", "entrypoint_label_selector")
_KEYS = ("address", "entrypoint", "runtime_env", "metadata", *_RESOURCES, *_TABLES)
_CONNECTION_KEYS = ("secrets", "configs")  # Flyte 2 puts the connection into the same place


@dataclass(frozen=True, kw_only=True)
class RayJobTask(TaskTemplate):
    """A task that runs a command on a Ray cluster.

    entrypoint: the command: a list of words, in which `{{.inputs.NAME}}` stands for an input, or one text for a shell.
    address: the cluster's dashboard, `https://ray.example.org` or `http://10.0.0.7:8265`; empty: the service's.
    runtime_env: Ray's runtime environment; `{{.inputs.NAME}}` stands for an input in any text of it. `working_dir` and
    `py_modules` are URIs that the cluster can read, such as `s3://bucket/code.zip`.
    entrypoint_num_cpus, entrypoint_num_gpus, entrypoint_memory (bytes), entrypoint_resources: what the command itself
    is to have; without any it runs on the head node. entrypoint_label_selector: on which nodes.
    metadata: texts by name, that Ray keeps with the job.

    What the command prints after `AIRSIDE_OUTPUTS=`, a JSON object by name, are the task's outputs.

    >>> from airside import kwtypes
    >>> task = RayJobTask(
    ...     name="train", entrypoint=["python", "train.py", "--rate", "{{.inputs.rate}}"],
    ...     runtime_env={"working_dir": "s3://flights/code.zip"}, entrypoint_num_cpus=1,
    ...     inputs=kwtypes(rate=float), outputs=kwtypes(loss=float),
    ... )
    >>> task.config["entrypoint_num_cpus"]
    1
    """

    task_type: str = "ray_job"
    entrypoint: str | Sequence[str] = ""
    address: str = ""
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    entrypoint_num_cpus: float | None = None
    entrypoint_num_gpus: float | None = None
    entrypoint_memory: int | None = None
    entrypoint_resources: Mapping[str, float] = field(default_factory=dict)
    entrypoint_label_selector: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.entrypoint:
            raise UsageError(f"Task {self.name!r} needs an entrypoint.")
        told = {
            "entrypoint": self.entrypoint if isinstance(self.entrypoint, str) else list(self.entrypoint),
            "address": self.address,
            "runtime_env": dict(self.runtime_env),
            "metadata": dict(self.metadata),
            **{name: getattr(self, name) for name in _RESOURCES},
            **{name: dict(getattr(self, name)) for name in _TABLES},
        }
        given = {name: value for name, value in told.items() if value or value == 0}
        object.__setattr__(self, "config", {**self.config, **given})
        super().__post_init__()


def submission_id(key: str) -> str:
    """The one submission id of an attempt.

    >>> submission_id("6d0a552d0f5683a7081b65c9bc7a3922")
    'airside-6d0a552d0f5683a7081b65c9bc7a3922'
    """
    return f"airside-{key}"


def body_of(task: Task) -> dict[str, Any]:
    """The body of a submission. Reads inputs, so it may block. `Fail` names what is wrong."""
    told = _of_container(task) if task.type.name == RAY else _of_config(task)
    runtime_env = dict(told.get("runtime_env") or {})
    own = {"AIRSIDE_KEY": task.key, "AIRSIDE_OUTPUT_PREFIX": task.output_prefix}
    variables = {**_mapping(runtime_env.get("env_vars"), "config.runtime_env.env_vars"), **own}
    runtime_env["env_vars"] = {name: str(value) for name, value in variables.items() if value is not None}
    return {
        **told,
        "runtime_env": runtime_env,
        "submission_id": submission_id(task.key),
        "metadata": {**_ids(task), **(told.get("metadata") or {}), "airside_key": task.key},
    }


def _of_config(task: Task) -> dict[str, Any]:
    config = {key: value for key, value in task.config.items() if key not in _CONNECTION_KEYS}
    for key in config:
        if key not in _KEYS:
            raise Fail(f"config.{key}: a ray_job task knows no such key (known: {', '.join(_KEYS)}).")
    told: dict[str, Any] = {"entrypoint": _command(config.get("entrypoint"), task)}
    others = _others(task)
    env = _mapping(config.get("runtime_env"), "config.runtime_env")
    told["runtime_env"] = to_json(render_value(env, task.inputs, others))
    variables = _mapping(env.get("env_vars"), "config.runtime_env.env_vars")
    if variables:  # texts, whatever the inputs are
        told["runtime_env"]["env_vars"] = {
            name: render(str(value), task.inputs, others) for name, value in variables.items()
        }
    metadata = _mapping(config.get("metadata"), "config.metadata")
    told["metadata"] = {name: render(str(value), task.inputs, others) for name, value in metadata.items()}
    for name in _RESOURCES:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise Fail(f"config.{name} must be a number that is not negative.")
        told[name] = int(value) if name == "entrypoint_memory" else value
    for name in _TABLES:
        if config.get(name):
            told[name] = _mapping(config[name], f"config.{name}")
    return told


def _command(told: Any, task: Task) -> str:
    """The command for Ray's shell. What an input holds is never read by the shell."""
    if isinstance(told, str) and told:
        if any(match[1].lower().startswith("inputs.") for match in PLACEHOLDER.finditer(told)):
            raise Fail(
                "config.entrypoint: an input in a text for a shell might be run as a command; write the command as a "
                "list of words, or put the input into runtime_env.env_vars."
            )
        return told
    if isinstance(told, (list, tuple)) and told and all(isinstance(one, str) for one in told):
        return shlex.join(render(one, task.inputs, _others(task)) for one in told)
    raise Fail("config.entrypoint must be a command: a list of words, or one text for a shell.")


def _of_container(task: Task) -> dict[str, Any]:
    """What a task of flytekit's or Flyte 2's Ray plugin runs: its container's command. Its cluster is there already."""
    words = words_of(task)
    runtime_env = _plugin_env(task.config)
    variables = {**environment_of(task), **_mapping(runtime_env.get("env_vars"), "custom.runtimeEnv.env_vars")}
    return {"entrypoint": shlex.join(words), "runtime_env": {**runtime_env, "env_vars": variables}}


def _plugin_env(config: Mapping[str, Any]) -> dict[str, Any]:
    encoded, written = config.get("runtimeEnv"), config.get("runtimeEnvYaml")
    try:
        if encoded:
            return _mapping(json.loads(base64.b64decode(encoded)), "custom.runtimeEnv")
        if written:
            import yaml

            return _mapping(yaml.safe_load(written), "custom.runtimeEnvYaml")
    except (ValueError, TypeError) as exc:
        raise Fail(f"custom.runtimeEnv cannot be read: {exc}.") from None
    return {}


def _others(task: Task) -> dict[str, str]:
    return {"outputprefix": task.output_prefix, "perretryuniquekey": task.key}


def _ids(task: Task) -> dict[str, str]:
    """The Flyte ids of the task, as Ray's metadata; `job_name` is what its dashboard may show."""
    execution = task.execution
    told = {
        "job_name": execution.task_name,
        "flyte_project": execution.project,
        "flyte_domain": execution.domain,
        "flyte_execution": execution.name,
        "flyte_node": execution.node_id,
    }
    return {name: value for name, value in told.items() if value}


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Fail(f"{where} must be an object.")
    return dict(value)
