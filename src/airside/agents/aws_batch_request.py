"""The job that a task asks AWS Batch for, the definition behind it, and `AWSBatchTask` to write such a task."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from airside.agents.aws_sizes import Size, on_fargate, size_of
from airside.agents.config_keys import Kinds, check_kinds
from airside.agents.flyte_container import environment_of, rendered
from airside.agents.json_values import to_json
from airside.model import Fail, Task, TaskTemplate, UsageError

EC2, FARGATE = "EC2", "FARGATE"
_KEYS: Mapping[str, Kinds] = {
    "parameters": Mapping,
    "schedulingPriority": (int, float),
    "platformCapabilities": str,
    "propagateTags": bool,
    "tags": Mapping,
    "jobQueue": str,
    "jobDefinition": str,
    "jobRoleArn": str,
    "executionRoleArn": str,
    "shareIdentifier": str,
    "attempts": (int, float),
    "region": str,
}
_ODD = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_NAME = 90  # of the 128 characters of a job's name; the rest is the key
_SHORTEST_TIMEOUT = 60  # seconds, that Batch takes


@dataclass(frozen=True, kw_only=True)
class AWSBatchConfig:
    """How AWS Batch is to run a task. The first five are those of flytekit's plugin.

    parameters: what `Ref::name` in the command stands for.
    schedulingPriority: in a queue with a scheduling policy.
    platformCapabilities: `EC2` or `FARGATE`.
    propagateTags: whether the tasks of ECS get the job's tags too.
    tags: of the job.
    job_queue: empty: the service's.
    job_definition: one that is there already, whose image is run; empty: one is made for the task's container.
    job_role, execution_role: ARNs of the roles of the container, and of ECS for its image and log.
    share_identifier: in a queue with a scheduling policy.
    attempts: how often Batch itself starts the container, 1 to 10.
    region: such as "eu-west-1". Empty: the service's.

    >>> AWSBatchConfig(platformCapabilities="FARGATE").job_queue
    ''
    """

    parameters: Mapping[str, str] | None = None
    schedulingPriority: int | None = None  # noqa: N815 - the plugin's name
    platformCapabilities: str = EC2  # noqa: N815 - the plugin's name
    propagateTags: bool | None = None  # noqa: N815 - the plugin's name
    tags: Mapping[str, str] | None = None
    job_queue: str = ""
    job_definition: str = ""
    job_role: str = ""
    execution_role: str = ""
    share_identifier: str = ""
    attempts: int = 1
    region: str = ""


@dataclass(frozen=True, kw_only=True)
class AWSBatchTask(TaskTemplate):
    """A task that runs its container as a job of AWS Batch.

    `{{.inputs.NAME}}` in command, arguments and environment stands for an input. Outputs are what the container leaves
    under its output prefix: in `outputs.json`, else in `outputs.pb`, as one made for Flyte does.

    >>> from airside import Container, kwtypes
    >>> task = AWSBatchTask(
    ...     name="hello", container=Container(image="busybox:1", command=("echo", "{{.inputs.who}}")),
    ...     inputs=kwtypes(who=str), task_config=AWSBatchConfig(job_queue="flights"),
    ... )
    >>> task.config
    {'platformCapabilities': 'EC2', 'jobQueue': 'flights', 'attempts': 1}
    """

    task_type: str = "aws-batch"
    task_config: AWSBatchConfig | None = None

    def __post_init__(self) -> None:
        asked = self.task_config or AWSBatchConfig()
        has_image = self.container is not None and bool(self.container.image)
        if has_image == bool(asked.job_definition):
            raise UsageError(f"Task {self.name!r} needs a container with an image, or a job_definition, and not both.")
        if asked.platformCapabilities not in (EC2, FARGATE):
            raise UsageError(f"Task {self.name!r}: platformCapabilities is EC2 or FARGATE.")
        told = {
            "parameters": dict(asked.parameters) if asked.parameters else None,
            "schedulingPriority": asked.schedulingPriority,
            "platformCapabilities": asked.platformCapabilities,
            "propagateTags": asked.propagateTags,
            "tags": dict(asked.tags) if asked.tags else None,
            "jobQueue": asked.job_queue or None,
            "jobDefinition": asked.job_definition or None,
            "jobRoleArn": asked.job_role or None,
            "executionRoleArn": asked.execution_role or None,
            "shareIdentifier": asked.share_identifier or None,
            "attempts": asked.attempts,
            "region": asked.region or None,
        }
        given = {name: value for name, value in told.items() if value is not None}
        object.__setattr__(self, "config", {**given, **self.config})
        super().__post_init__()


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a job gets that its task does not say."""

    queue: str
    job_role: str
    execution_role: str
    cpus: str
    memory: str
    public_ip: bool


class Asked(NamedTuple):
    """What Batch is asked for: the job, and the definition that has to be there for it, if its task names none."""

    job: dict[str, Any]
    definition: dict[str, Any] | None


def job_name(task: Task, key: str) -> str:
    """The one name of the job of an attempt.

    >>> from airside.model import Execution, TaskType
    >>> job_name(Task(type=TaskType("aws-batch"), execution=Execution(task_name="flights.late")), "0a")
    'flights-late-0a'
    """
    name = _ODD.sub("-", task.execution.task_name).lstrip("_-")[:_LONGEST_NAME]
    return f"{name or 'airside'}-{key}"


def queue_of(task: Task, default: str) -> str:
    """The queue of a task's job. `Fail` if nobody names one."""
    configs = task.connection.configs if task.connection is not None else {}
    queue = task.config.get("jobQueue") or configs.get("queue") or default
    if not queue:
        raise Fail("No queue is named: set config.jobQueue in the task, or `queue` in the settings of the agent.")
    return str(queue)


def asked_of(task: Task, defaults: Defaults) -> Asked:
    """What a task asks for; the same for every create of one attempt. `Fail` names what is wrong with it."""
    config = _checked(task)
    platform = config.get("platformCapabilities") or EC2
    if platform not in (EC2, FARGATE):
        raise Fail(f"config.platformCapabilities is EC2 or FARGATE, not {platform!r}.")
    definition = None if config.get("jobDefinition") else _definition(task, config, platform, defaults)
    job: dict[str, Any] = {
        "jobName": job_name(task, task.key),
        "jobQueue": queue_of(task, defaults.queue),
        "jobDefinition": config.get("jobDefinition") or (definition or {})["jobDefinitionName"],
        "containerOverrides": _overrides(task, platform, defaults),
        "retryStrategy": {"attempts": int(config.get("attempts") or 1)},
    }
    if seconds := _timeout(task):
        job["timeout"] = {"attemptDurationSeconds": max(seconds, _SHORTEST_TIMEOUT)}
    if config.get("parameters"):
        job["parameters"] = {name: rendered(task, [str(one)])[0] for name, one in config["parameters"].items()}
    if config.get("tags"):
        job["tags"] = {name: str(one) for name, one in config["tags"].items()}
    for name in ("propagateTags", "shareIdentifier"):
        if config.get(name) is not None:
            job[name] = config[name]
    if config.get("schedulingPriority") is not None:
        job["schedulingPriorityOverride"] = int(config["schedulingPriority"])
    return Asked(job, definition)


def _checked(task: Task) -> Mapping[str, Any]:
    config: Mapping[str, Any] = to_json(task.config)
    check_kinds(config, _KEYS, "aws-batch")
    has_image = task.container is not None and bool(task.container.image)
    if has_image == bool(config.get("jobDefinition")):
        raise Fail("An aws-batch task needs a container with an image, or a jobDefinition, and not both.")
    return config


def _definition(task: Task, config: Mapping[str, Any], platform: str, defaults: Defaults) -> dict[str, Any]:
    """A definition for all jobs of an image and its roles; everything else is the job's own."""
    execution_role = config.get("executionRoleArn") or defaults.execution_role
    if platform == FARGATE and not execution_role:
        raise Fail(
            "On Fargate a job needs an execution role: set config.executionRoleArn in the task, or `execution_role` in "
            "the settings of the agent.",
        )
    assert task.container is not None  # noqa: S101 - `_checked` has seen it
    properties: dict[str, Any] = {
        "image": task.container.image,
        "resourceRequirements": _requirements(Size(0.25, 512) if platform == FARGATE else Size(1, 128)),
    }
    job_role = config.get("jobRoleArn") or task.execution.identity.get("iam_role") or defaults.job_role
    roles = {"jobRoleArn": job_role, "executionRoleArn": execution_role}
    properties |= {name: value for name, value in roles.items() if value}
    if platform == FARGATE:
        properties["networkConfiguration"] = {"assignPublicIp": "ENABLED" if defaults.public_ip else "DISABLED"}
    made = {"type": "container", "platformCapabilities": [platform], "containerProperties": properties}
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]
    return {"jobDefinitionName": f"airside-{digest}", **made}


def _overrides(task: Task, platform: str, defaults: Defaults) -> dict[str, Any]:
    container = task.container
    environment = [{"name": name, "value": value} for name, value in environment_of(task).items()]
    overrides: dict[str, Any] = {"environment": environment}
    if command := rendered(task, [*container.command, *container.args] if container is not None else []):
        overrides["command"] = command
    if container is not None and (container.image or container.requests or container.limits):
        size = size_of(container, defaults.cpus, defaults.memory)
        overrides["resourceRequirements"] = _requirements(on_fargate(size) if platform == FARGATE else _whole(size))
    return overrides


def _whole(size: Size) -> Size:
    """On EC2 there are whole vCPUs only."""
    return size._replace(cpus=-(-size.cpus // 1))


def _requirements(size: Size) -> list[dict[str, str]]:
    asked = {"VCPU": f"{size.cpus:g}", "MEMORY": str(size.memory), "GPU": str(size.gpus) if size.gpus else ""}
    return [{"type": name, "value": value} for name, value in asked.items() if value]


def _timeout(task: Task) -> int:
    """The seconds that the template gives to one attempt; 0 without a limit."""
    metadata = getattr(task.template, "metadata", None)
    return int(metadata.timeout.seconds) if metadata is not None else 0
