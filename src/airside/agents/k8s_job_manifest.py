"""The Job that a task asks for, as Kubernetes takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from airside.agents.flyte_container import environment_of, rendered
from airside.agents.json_values import to_json
from airside.model import Container, Fail, Task, TaskTemplate, UsageError
from airside.wire.struct import StructValues

KEY_LABEL = "airside/key"
MANAGED = {"app.kubernetes.io/managed-by": "airside"}
GAVE_UP = "airside/gave-up"
MAIN = "main"

_KEYS = ("job", "namespace", "ttl", "deadline", "service_account")
_CONNECTION_KEYS = ("secrets", "configs")  # Flyte 2 puts the connection into the same place
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_LABEL = re.compile(r"[^A-Za-z0-9._-]")
_RESOURCES = {"gpu": "nvidia.com/gpu", "ephemeral_storage": "ephemeral-storage", "storage": "ephemeral-storage"}


@dataclass(frozen=True, kw_only=True)
class K8sJobTask(TaskTemplate):
    """A task that runs its container as a Kubernetes Job.

    namespace: where; empty: the service's. ttl: seconds for which the finished Job, with its logs, is kept.
    deadline: seconds after which it is ended. service_account: the one that its pod runs as.
    job: a Job manifest, or the part of one that goes beyond the container, if the service allows manifests. Its
        container named `main`, else its first, is the task's.

    `{{.inputs.NAME}}` in command, arguments and environment stands for an input. Values for the outputs go, as a JSON
    object of up to 4 KB, into the file /dev/termination-log; a container made for Flyte writes `outputs.pb` instead.

    >>> from airside import Container, kwtypes
    >>> task = K8sJobTask(
    ...     name="hello", container=Container(image="busybox:1", command=("echo", "{{.inputs.who}}")),
    ...     inputs=kwtypes(who=str), namespace="flights", ttl=600,
    ... )
    >>> task.config
    {'namespace': 'flights', 'ttl': 600}
    """

    task_type: str = "k8s_job"
    namespace: str = ""
    ttl: int | None = None
    deadline: int | None = None
    service_account: str = ""
    job: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.container is None and not self.job:
            raise UsageError(f"Task {self.name!r} needs a container, or a job.")
        told = {
            "namespace": self.namespace,
            "ttl": self.ttl,
            "deadline": self.deadline,
            "service_account": self.service_account,
            "job": dict(self.job),
        }
        given = {key: value for key, value in told.items() if value or value == 0}
        object.__setattr__(self, "config", {**self.config, **given})
        super().__post_init__()


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a Job gets that its task does not say. `image_pull_policy` empty: the cluster's own."""

    namespace: str
    ttl: int
    service_account: str
    manifests: bool
    image_pull_policy: str
    host_network: bool


def job_name(key: str) -> str:
    """The one name of the Job of an attempt.

    >>> job_name("6d0a552d0f5683a7081b65c9bc7a3922")
    'airside-6d0a552d0f5683a7081b65c9bc7a3922'
    """
    return f"airside-{key}"


def is_key(text: str) -> bool:
    """True for what can be the key of a Job: handles come from outside.

    >>> is_key("6d0a552d0f5683a7081b65c9bc7a3922"), is_key("a) , b in (c")
    (True, False)
    """
    return text.isascii() and text.isalnum()


def namespace_of(task: Task, default: str, allowed: Sequence[str]) -> str:
    """The namespace of a task's Job. `Fail` for one that the service may not use."""
    namespace = task.config.get("namespace") or default
    if not isinstance(namespace, str) or not _NAME.match(namespace):
        raise Fail(f"config.namespace: {namespace!r} is no name of a namespace.")
    check_namespace(namespace, default, allowed)
    return namespace


def check_namespace(namespace: str, default: str, allowed: Sequence[str]) -> None:
    """`Fail` for a namespace that the service may not use."""
    if namespace != default and namespace not in allowed and "*" not in allowed:
        raise Fail(
            f"Tasks may not use the namespace {namespace!r}: an operator may add it to `namespaces` in the settings of "
            "the agent.",
            code="Forbidden",
        )


def manifest_of(task: Task, namespace: str, defaults: Defaults) -> dict[str, Any]:
    """The Job of a task. `Fail` names what is wrong with it."""
    config = task.config
    for key in config:
        if key not in (*_KEYS, *_CONNECTION_KEYS):
            raise Fail(f"config.{key}: a k8s_job task knows no such key (known: {', '.join(_KEYS)}).")
    given = config.get("job") or _job_of_pod(task.template)
    if given and not defaults.manifests:
        raise Fail(
            "config.job: this service takes no manifests and no pods from tasks, since they may ask for anything that "
            "its account may do; an operator may set `manifests` in the settings of the agent.",
            code="Forbidden",
        )
    job = _mapping(to_json(given), "config.job")
    spec = _mapping(job.get("spec"), "config.job.spec")
    template = _mapping(spec.get("template"), "config.job.spec.template")
    pod = _mapping(template.get("spec"), "config.job.spec.template.spec")
    _add_container(pod, task, defaults)
    account = config.get("service_account") or defaults.service_account
    if account:
        pod["serviceAccountName"] = account
    pod.setdefault("restartPolicy", "Never")
    if defaults.host_network:
        pod.setdefault("hostNetwork", True)
    labels = {**MANAGED, KEY_LABEL: task.key, **_labels(task)}
    template["metadata"] = _with_labels(template.get("metadata"), labels)
    template["spec"] = pod
    spec["template"] = template
    spec.setdefault("backoffLimit", 0)  # attempts are the engine's business
    spec["ttlSecondsAfterFinished"] = _seconds(
        config.get("ttl"), "ttl", spec.get("ttlSecondsAfterFinished", defaults.ttl)
    )
    deadline = _seconds(config.get("deadline"), "deadline", spec.get("activeDeadlineSeconds"))
    if deadline is not None:
        spec["activeDeadlineSeconds"] = deadline
    metadata = _with_labels(job.get("metadata"), labels)
    metadata |= {"name": job_name(task.key), "namespace": namespace}
    return {**job, "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _job_of_pod(template: Any) -> dict[str, Any]:
    """A manifest of the pod that a template has instead of a container; its primary container comes first."""
    if template is None or template.WhichOneof("target") != "k8s_pod":
        return {}
    pod = template.k8s_pod
    spec = _mapping(to_json(StructValues(pod.pod_spec)), "the template's pod")
    primary = pod.primary_container_name or template.config.get("primary_container_name", "")
    containers = [_mapping(one, "the template's pod: a container") for one in spec.get("containers") or ()]
    spec["containers"] = sorted(containers, key=lambda one: one.get("name") != primary)
    metadata = {"labels": dict(pod.metadata.labels), "annotations": dict(pod.metadata.annotations)}
    return {"spec": {"template": {"metadata": metadata, "spec": spec}}}


def _add_container(pod: dict[str, Any], task: Task, defaults: Defaults) -> None:
    containers = [_mapping(one, "config.job: a container") for one in pod.get("containers") or ()]
    main = next((one for one in containers if one.get("name") == MAIN), containers[0] if containers else {})
    if not containers:
        main["name"] = MAIN
        containers = [main]
    if task.container is not None:
        main |= {key: value for key, value in _container(task.container).items() if value}
    if not main.get("image"):
        raise Fail("A k8s_job task needs a container with an image.")
    for key in ("command", "args"):
        if key in main:
            main[key] = rendered(task, [str(word) for word in main[key]])
    told = environment_of(task)
    given = [_mapping(one, "config.job: a variable") for one in main.get("env") or ()]
    others = [{**one, "value": rendered(task, [str(one["value"])])[0]} if "value" in one else one
              for one in given if one.get("name") not in told]  # fmt: skip
    main["env"] = [*others, *({"name": name, "value": value} for name, value in told.items())]
    main.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
    if defaults.image_pull_policy:
        main.setdefault("imagePullPolicy", defaults.image_pull_policy)
    pod["containers"] = containers


def _container(container: Container) -> dict[str, Any]:
    resources = {
        kind: {_RESOURCES.get(name, name): amount for name, amount in amounts.items()}
        for kind, amounts in (("requests", container.requests), ("limits", container.limits))
        if amounts
    }
    return {
        "image": container.image,
        "command": list(container.command),
        "args": list(container.args),
        "resources": resources,
    }


def _labels(task: Task) -> dict[str, str]:
    """The ids that Flyte gives to pods of its own, as far as they fit into labels."""
    execution = task.execution
    told = {
        "project": execution.project,
        "domain": execution.domain,
        "execution-id": execution.name,
        "node-id": execution.node_id,
        "task-name": execution.task_name,
    }
    short = {name: _LABEL.sub("-", value)[:63].strip("._-") for name, value in told.items()}
    return {name: value for name, value in short.items() if value}


def _with_labels(metadata: Any, labels: Mapping[str, str]) -> dict[str, Any]:
    given = _mapping(metadata, "config.job: metadata")
    return {**given, "labels": {**_mapping(given.get("labels"), "config.job: labels"), **labels}}


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Fail(f"{where} must be an object.")
    return deepcopy(dict(value))


def _seconds(given: Any, name: str, default: Any) -> Any:
    if given is None:
        return default
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise Fail(f"config.{name} must be a whole number of seconds.")
    return given
