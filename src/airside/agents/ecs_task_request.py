"""The ECS task that a task asks for, the definition behind it, and `ECSTask` to write such a task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from airside.agents.aws_sizes import Size, on_fargate, size_of
from airside.agents.config_keys import Kinds, check_kinds
from airside.agents.flyte_container import environment_of, rendered
from airside.agents.json_values import to_json
from airside.model import Fail, Task, TaskTemplate, UsageError

MAIN = "main"
STREAM_PREFIX = "airside"
FARGATE, EC2, EXTERNAL = "FARGATE", "EC2", "EXTERNAL"
_LEAST_MEMORY = 6  # MiB that ECS keeps for a container at least; the size of the whole is what counts
_KEYS: Mapping[str, Kinds] = {
    "cluster": str,
    "launchType": str,
    "capacityProvider": str,
    "subnets": list,
    "securityGroups": list,
    "publicIp": bool,
    "taskRoleArn": str,
    "executionRoleArn": str,
    "cpuArchitecture": str,
    "ephemeralStorage": (int, float),
    "taskDefinition": str,
    "container": str,
    "tags": Mapping,
    "region": str,
}


@dataclass(frozen=True, kw_only=True)
class ECSConfig:
    """Where and how Amazon ECS is to run a task.

    cluster: empty: the service's. region: such as "eu-west-1".
    launch_type: `FARGATE`, `EC2` or `EXTERNAL`; empty: the service's. capacity_provider: instead of it, such as
        "FARGATE_SPOT".
    subnets, security_groups: empty: the service's. public_ip: None: as the service's settings say.
    task_role, execution_role: ARNs of the roles of the container, and of ECS for its image and log.
    cpu_architecture: `X86_64` or `ARM64`. ephemeral_storage: GiB, 21 to 200, on Fargate.
    task_definition: one that is there already, whose images are run; empty: one is made for the task's container.
    container: the name of the task's container in that; empty: its first essential one.
    tags: of the ECS task.

    >>> ECSConfig(capacity_provider="FARGATE_SPOT").launch_type
    ''
    """

    cluster: str = ""
    launch_type: str = ""
    capacity_provider: str = ""
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()
    public_ip: bool | None = None
    task_role: str = ""
    execution_role: str = ""
    cpu_architecture: str = ""
    ephemeral_storage: int | None = None
    task_definition: str = ""
    container: str = ""
    tags: Mapping[str, str] | None = None
    region: str = ""


@dataclass(frozen=True, kw_only=True)
class ECSTask(TaskTemplate):
    """A task that runs its container as a task of Amazon ECS.

    `{{.inputs.NAME}}` in command, arguments and environment stands for an input. Outputs are what the container leaves
    under its output prefix: in `outputs.json`, else in `outputs.pb`, as one made for Flyte does.

    >>> from airside import Container, kwtypes
    >>> task = ECSTask(
    ...     name="hello", container=Container(image="busybox:1", command=("echo", "{{.inputs.who}}")),
    ...     inputs=kwtypes(who=str), task_config=ECSConfig(cluster="flights"),
    ... )
    >>> task.config
    {'cluster': 'flights'}
    """

    task_type: str = "ecs_task"
    task_config: ECSConfig | None = None

    def __post_init__(self) -> None:
        asked = self.task_config or ECSConfig()
        has_image = self.container is not None and bool(self.container.image)
        if has_image == bool(asked.task_definition):
            raise UsageError(f"Task {self.name!r} needs a container with an image, or a task_definition, and not both.")
        if asked.launch_type and asked.capacity_provider:
            raise UsageError(f"Task {self.name!r} has a launch_type or a capacity_provider, not both.")
        told = {
            "cluster": asked.cluster,
            "launchType": asked.launch_type,
            "capacityProvider": asked.capacity_provider,
            "subnets": list(asked.subnets),
            "securityGroups": list(asked.security_groups),
            "publicIp": asked.public_ip,
            "taskRoleArn": asked.task_role,
            "executionRoleArn": asked.execution_role,
            "cpuArchitecture": asked.cpu_architecture,
            "ephemeralStorage": asked.ephemeral_storage,
            "taskDefinition": asked.task_definition,
            "container": asked.container,
            "tags": dict(asked.tags) if asked.tags else None,
            "region": asked.region,
        }
        given = {name: value for name, value in told.items() if value or value is False}
        object.__setattr__(self, "config", {**given, **self.config})
        super().__post_init__()


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What an ECS task gets that its task does not say."""

    cluster: str
    launch_type: str
    subnets: Sequence[str]
    security_groups: Sequence[str]
    public_ip: bool
    task_role: str
    execution_role: str
    log_group: str
    cpus: str
    memory: str


class Log(NamedTuple):
    """Where a container writes its log. Without a prefix the stream has the name of the container's own id."""

    container: str
    group: str = ""
    prefix: str = ""


def checked(task: Task) -> Mapping[str, Any]:
    """The configuration of a task. `Fail` names what is wrong with it."""
    config: Mapping[str, Any] = to_json(task.config)
    check_kinds(config, _KEYS, "ecs_task")
    has_image = task.container is not None and bool(task.container.image)
    if has_image == bool(config.get("taskDefinition")):
        raise Fail("An ecs_task task needs a container with an image, or a taskDefinition, and not both.")
    if config.get("launchType") not in (None, "", FARGATE, EC2, EXTERNAL):
        raise Fail(f"config.launchType is FARGATE, EC2 or EXTERNAL, not {config['launchType']!r}.")
    return config


def definition_of(task: Task, config: Mapping[str, Any], region: str, defaults: Defaults) -> dict[str, Any]:
    """A definition for all tasks of an image, its entry point and its roles; everything else is the ECS task's own."""
    assert task.container is not None  # noqa: S101 - `checked` has seen it
    needs_fargate = _is_fargate(config, defaults)
    kind = FARGATE if needs_fargate else config.get("launchType") or defaults.launch_type
    execution_role = config.get("executionRoleArn") or defaults.execution_role
    container: dict[str, Any] = {
        "name": MAIN,
        "image": task.container.image,
        "essential": True,
        "memoryReservation": _LEAST_MEMORY,
    }
    if task.container.command:
        container["entryPoint"] = rendered(task, task.container.command[:1])
    if defaults.log_group:
        options = {
            "awslogs-group": defaults.log_group,
            "awslogs-region": region,
            "awslogs-stream-prefix": STREAM_PREFIX,
        }
        container["logConfiguration"] = {"logDriver": "awslogs", "options": options}
    made: dict[str, Any] = {
        "containerDefinitions": [container],
        "cpu": "256",
        "memory": "512",
        "requiresCompatibilities": [kind],
    }
    if needs_fargate or (kind == EC2 and (config.get("subnets") or defaults.subnets)):
        made["networkMode"] = "awsvpc"
    task_role = config.get("taskRoleArn") or task.execution.identity.get("iam_role") or defaults.task_role
    roles = {"taskRoleArn": task_role, "executionRoleArn": execution_role}
    made |= {name: value for name, value in roles.items() if value}
    if config.get("cpuArchitecture"):
        made["runtimePlatform"] = {"cpuArchitecture": config["cpuArchitecture"], "operatingSystemFamily": "LINUX"}
    if needs_fargate and defaults.log_group and not execution_role:
        raise Fail(
            "On Fargate a task with a log needs an execution role: set config.executionRoleArn in the task, or "
            "`execution_role` in the settings of the agent."
        )
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]
    return {"family": f"airside-{digest}", **made}


def log_of(definition: Mapping[str, Any], wanted: str) -> Log:
    """The container of a definition that is the task's, and where its log is. `Fail` if there is none of that name."""
    containers = definition["containerDefinitions"]
    names = [str(one["name"]) for one in containers]
    if wanted and wanted not in names:
        raise Fail(f"config.container: the definition has no container {wanted!r} (it has: {', '.join(names)}).")
    essential = [one for one in containers if one.get("essential", True)]
    chosen = next((one for one in containers if one["name"] == wanted), (essential or containers)[0])
    configured = chosen.get("logConfiguration") or {}
    options = configured.get("options") or {}
    if configured.get("logDriver") != "awslogs":
        return Log(chosen["name"])
    return Log(chosen["name"], options.get("awslogs-group", ""), options.get("awslogs-stream-prefix", ""))


def run_of(
    task: Task,
    config: Mapping[str, Any],
    definition: Mapping[str, Any],
    container: str,
    cluster: str,
    defaults: Defaults,
) -> dict[str, Any]:
    """What `RunTask` is asked; the same for every create of one attempt."""
    asked: dict[str, Any] = {
        "cluster": cluster,
        "taskDefinition": config.get("taskDefinition") or definition["family"],
        "count": 1,
        "clientToken": task.key,
        "startedBy": f"airside-{task.key}"[:36],
        "overrides": _overrides(task, config, container, defaults),
    }
    if config.get("capacityProvider"):
        asked["capacityProviderStrategy"] = [{"capacityProvider": config["capacityProvider"], "weight": 1}]
    else:
        asked["launchType"] = config.get("launchType") or defaults.launch_type
    if definition.get("networkMode") == "awsvpc":
        asked["networkConfiguration"] = {"awsvpcConfiguration": _network(config, defaults)}
    if config.get("tags"):
        asked["tags"] = [{"key": name, "value": str(value)} for name, value in config["tags"].items()]
    return asked


def _network(config: Mapping[str, Any], defaults: Defaults) -> dict[str, Any]:
    subnets = config.get("subnets") or list(defaults.subnets)
    if not subnets:
        raise Fail("A task with a network of its own needs subnets: in its configuration, or in the agent's settings.")
    network: dict[str, Any] = {"subnets": subnets}
    if groups := config.get("securityGroups") or list(defaults.security_groups):
        network["securityGroups"] = groups
    if _is_fargate(config, defaults):
        public = defaults.public_ip if config.get("publicIp") is None else config["publicIp"]
        network["assignPublicIp"] = "ENABLED" if public else "DISABLED"
    return network


def _overrides(task: Task, config: Mapping[str, Any], name: str, defaults: Defaults) -> dict[str, Any]:
    container = task.container
    environment = [{"name": key, "value": value} for key, value in environment_of(task).items()]
    one: dict[str, Any] = {"name": name, "environment": environment}
    overrides: dict[str, Any] = {"containerOverrides": [one]}
    if config.get("ephemeralStorage"):
        overrides["ephemeralStorage"] = {"sizeInGiB": int(config["ephemeralStorage"])}
    if container is None:
        return overrides
    command = container.command[1:] if container.image else container.command
    if words := rendered(task, [*command, *container.args]):
        one["command"] = words
    if container.image or container.requests or container.limits:
        asked = size_of(container, defaults.cpus, defaults.memory)
        size = on_fargate(asked) if _is_fargate(config, defaults) else asked
        overrides |= _size(size)
        if size.gpus:
            one["resourceRequirements"] = [{"type": "GPU", "value": str(size.gpus)}]
    return overrides


def _size(size: Size) -> dict[str, str]:
    return {"cpu": str(max(int(size.cpus * 1024), 128)), "memory": str(size.memory)}


def _is_fargate(config: Mapping[str, Any], defaults: Defaults) -> bool:
    provider = config.get("capacityProvider")
    if provider:
        return bool(provider.startswith(FARGATE))
    return (config.get("launchType") or defaults.launch_type) == FARGATE
