"""What to run: the task as its author wrote it, and the task as an agent is asked to run it."""

from __future__ import annotations

import hashlib
import random
import time
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from airside.model.errors import ConversionError, UsageError
from airside.model.redaction import redact


class TaskType(NamedTuple):
    """The name that picks an agent, and its version (Flyte's task category).

    >>> TaskType("spark")
    TaskType(name='spark', version=0)
    """

    name: str
    version: int = 0

    def __str__(self) -> str:
        return f"{self.name} v{self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class Interface:
    """The declared inputs and outputs of a task: Python types by name.

    >>> Interface(inputs={"x": int}).inputs["x"]
    <class 'int'>
    """

    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sql:
    """A SQL statement and its dialect ("ansi", "hive", "other", or empty).

    >>> Sql("SELECT 1").statement
    'SELECT 1'
    """

    statement: str
    dialect: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container to run: image, command, arguments, environment and resources.

    `requests` and `limits` map a resource ("cpu", "memory", "gpu", "storage", "ephemeral_storage")
    to a Kubernetes quantity ("500m", "1Gi").

    >>> Container(image="python:3.12-slim", command=("python", "-V"), limits={"cpu": "500m"}).command
    ('python', '-V')
    """

    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Which run of which task this is, and on whose behalf.

    `attempt` counts from 0. `task_name` and `task_version` are the template's id; `name` is the
    execution's. Nothing here is verified by Airside: the caller says it.

    >>> Execution(project="flights", domain="production", attempt=1).attempt
    1
    """

    project: str = ""
    domain: str = ""
    org: str = ""
    name: str = ""
    node_id: str = ""
    attempt: int = 0
    task_name: str = ""
    task_version: str = ""
    namespace: str = ""
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connection:
    """Credentials and settings for one backend account, by name. Secret values never show in its repr.

    >>> Connection(secrets={"token": "s3cr3t"}, configs={"host": "example.org"})
    Connection(name='', secrets={'token': '***'}, configs={'host': 'example.org'})
    """

    name: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        hidden = dict.fromkeys(self.secrets, "***")
        return f"Connection(name={self.name!r}, secrets={hidden!r}, configs={dict(self.configs)!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The circumstances of one call to an agent: for whom, until when.

    `deadline` is a `time.monotonic()` value, or None if the caller waits for ever; `key` names the
    task attempt that the job belongs to (32 lower-case hex digits, or empty if unknown); `task_type` is
    the job's type, or None if unknown, for agents that serve several.

    >>> Call(output_prefix="s3://bucket/run/0").remaining is None
    True
    """

    connection: Connection | None = None
    output_prefix: str = ""
    key: str = ""
    deadline: float | None = None
    task_type: TaskType | None = None

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline (never negative), or None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task to run, as an agent receives it.

    `inputs` converts each value when it is first read; a value that does not fit its declared type
    raises `ConversionError` with its path, which fails the task for good. `config` is the template's
    `custom`: settings that the task's author gave to this kind of task. `key` names this attempt: the
    same attempt asked for twice has the same key, so it is what makes a create idempotent.
    `template` is the untouched protobuf, for whoever needs it.

    >>> Task(type=TaskType("add"), inputs={"a": 1, "b": 2}).inputs["a"]
    1
    """

    type: TaskType
    inputs: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    sql: Sql | None = None
    container: Container | None = None
    interface: Interface = field(default_factory=Interface)
    output_prefix: str = ""
    key: str = ""
    execution: Execution = field(default_factory=Execution)
    connection: Connection | None = None
    template: Any = None

    def __repr__(self) -> str:
        return redact(f"Task({self.type}, name={self.execution.task_name!r}, key={self.key!r})")


def attempt_key(task_type: str, version: int, template_id: tuple[str, ...], output_prefix: str) -> str:
    """The key of a task attempt: 32 lower-case hex digits, the same whenever the same attempt is asked for.

    `template_id` is the template's (resource type number, project, domain, name, version, org). Without an
    output prefix nothing tells one attempt from another: the key is then random.

    >>> attempt_key("spark", 0, ("1", "p", "d", "job", "v1", ""), "s3://b/run/0")
    '6d0a552d0f5683a7081b65c9bc7a3922'
    >>> attempt_key("spark", 0, (), "") == attempt_key("spark", 0, (), "")
    False
    """
    if not output_prefix:
        return f"{random.getrandbits(128):032x}"  # unique, not secret

    parts = (task_type, str(version), str(len(template_id)), *template_id, output_prefix)
    digest = hashlib.sha256()
    for part in parts:  # each with its length, so that no two lists of parts read alike
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTemplate:
    """A task as its author writes it: inert data, run by `airside run`, by an engine, or by Flyte.

    `inputs` and `outputs` map names to Python types (`kwtypes`); `defaults` gives inputs that may be
    left out. An optional input (`int | None`) may be left out too: it is None, as in Flyte. `config` reaches
    the agent as `task.config`. `retries` is the number of further attempts after a retryable failure,
    `timeout` the seconds one attempt may take (None: no limit).

    >>> from airside import kwtypes
    >>> TaskTemplate(name="hello", task_type="echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int)).name
    'hello'
    >>> TaskTemplate(name="hello", task_type="echo", inputs=kwtypes(x=int, y=int | None)).complete({"x": 1})
    {'y': None, 'x': 1}
    """

    name: str
    task_type: str
    task_type_version: int = 0
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    sql: Sql | None = None
    container: Container | None = None
    version: str = ""
    doc: str = ""
    retries: int = 0
    timeout: float | None = None
    cache: bool = False
    cache_version: str = ""

    def __post_init__(self) -> None:
        if not self.name or not self.task_type:
            raise UsageError("A task needs a name and a task_type.")
        unknown = set(self.defaults) - set(self.inputs)
        if unknown:
            raise UsageError(f"Task {self.name!r} has defaults for undeclared inputs: {', '.join(sorted(unknown))}.")
        optional = {name: None for name, kind in self.inputs.items() if _takes_none(kind)}
        object.__setattr__(self, "defaults", {**optional, **self.defaults})

    @property
    def type(self) -> TaskType:
        """The task type and version that pick an agent."""
        return TaskType(self.task_type, self.task_type_version)

    @property
    def interface(self) -> Interface:
        """The declared inputs and outputs."""
        return Interface(self.inputs, self.outputs)

    def complete(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The given inputs with the defaults added; a missing or undeclared one raises `ConversionError`."""
        for name in values:
            if name not in self.inputs:
                known = ", ".join(self.inputs) or "none"
                raise ConversionError(f"inputs.{name}", f"not an input of {self.name} (inputs: {known})")
        merged = {**self.defaults, **values}
        for name in self.inputs:
            if name not in merged:
                raise ConversionError(f"inputs.{name}", "missing")
        return merged


def _takes_none(annotation: Any) -> bool:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return is_union and type(None) in typing.get_args(annotation)
