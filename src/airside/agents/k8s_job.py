"""`k8s_job`: a task whose container runs as a Kubernetes Job, and `K8sJobTask` to write one.

The Job's name is made from the key of the attempt, so that Kubernetes itself refuses a second one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from airside.agents.faults import fault_of, faults
from airside.agents.flyte_container import kinds_of, place_of
from airside.agents.json_values import from_json, is_optional
from airside.agents.k8s_job_client import ACCOUNT, Clients, Conflict, ask, every
from airside.agents.k8s_job_manifest import (
    GAVE_UP,
    KEY_LABEL,
    Defaults,
    K8sJobTask,
    check_namespace,
    is_key,
    job_name,
    manifest_of,
    namespace_of,
)
from airside.agents.k8s_job_states import main_of, resource_of, said, trouble_of
from airside.model import (
    Call,
    Connection,
    ConversionError,
    Fail,
    LogLine,
    LogLink,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Retry,
    Task,
)
from airside.sdk.agent import AsyncAgent
from airside.sdk.hosts import HostAllowList

_ONE_LIST = 100  # Jobs that one list is asked for by their keys: the address stays under 4 KB
_FOLLOW = 20.0  # seconds without a log line after which the pod is looked at again


@dataclass(frozen=True, slots=True, kw_only=True)
class K8sJob:
    """What finds a Job again.

    outputs: the kinds of those that its container may tell in its last words. output_prefix: where it leaves
    `outputs.pb` or `error.pb`; empty if it leaves neither.
    """

    name: str
    namespace: str
    uid: str
    outputs: dict[str, Any] = field(default_factory=dict)
    output_prefix: str = ""


class K8sJobAgent(AsyncAgent[K8sJob]):
    """Runs the containers of tasks as Kubernetes Jobs."""

    name = "k8s_job"
    task_type = "k8s_job"
    create_is_idempotent = True
    requires = MappingProxyType({"kubernetes": "k8s_job"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which cluster, and what tasks may do there.

        kubeconfig, context: the file and its context; empty: the pod's own account, else KUBECONFIG or ~/.kube/config.
        namespace: where Jobs go that name no other; empty: that of the account or context.
        namespaces: those that tasks may name besides; `*` for all.
        manifests: whether tasks may bring a manifest, and so ask for anything that the service's account may do.
        service_account: the one that pods run as whose tasks name none.
        ttl: seconds for which finished Jobs, with their logs, are kept.
        pending_timeout: seconds after which a Job is given up whose image cannot be pulled or container not made.
        image_pull_policy, host_network: of pods that do not say; empty and false: the cluster's own.
        allowed_hosts: API servers that a connection may name.
        job_url: a link to a Job, with `{namespace}` and `{name}` in it; empty: none.
        """

        kubeconfig: str = ""
        context: str = ""
        namespace: str = ""
        namespaces: tuple[str, ...] = ()
        manifests: bool = False
        service_account: str = ""
        ttl: int = 86400
        pending_timeout: float = 600.0
        image_pull_policy: str = ""
        host_network: bool = False
        allowed_hosts: tuple[str, ...] = ()
        job_url: str = ""

        def __post_init__(self) -> None:
            if self.ttl < 0 or self.pending_timeout <= 0:
                raise ValueError("ttl and pending_timeout are numbers of seconds")
            if self.image_pull_policy not in ("", "Always", "IfNotPresent", "Never"):
                raise ValueError("image_pull_policy is Always, IfNotPresent or Never")

    def open(self, options: Options) -> None:
        self._options = options
        self._clients = Clients(options.kubeconfig, options.context, HostAllowList(options.allowed_hosts))
        self._clients.get(None)

    def close(self) -> None:
        self._clients.close()

    def check_credentials(self) -> str:
        """Whose credentials there are for tasks that bring none."""
        host = self._clients.get(None).configuration.host
        return f"the configuration for {host}"

    def probe(self) -> str:
        """Ask the cluster for a Job."""
        namespace = self._namespace(None)
        ask(self._jobs(None).list_namespaced_job, namespace, limit=1, doing=f"Jobs in {namespace} cannot be listed")
        return f"Kubernetes answers, and shows the Jobs in {namespace}"

    def create(self, task: Task) -> K8sJob:
        namespace = namespace_of(task, self._namespace(task.connection), self._options.namespaces)
        manifest = manifest_of(task, namespace, self._defaults(namespace))
        jobs = self._jobs(task.connection)
        try:
            made = ask(jobs.create_namespaced_job, namespace, manifest, doing="The Job was not accepted", user=True)
        except Conflict:
            found = self.find(task, task.key)
            if found is None:
                raise Retry(f"The Job {job_name(task.key)} is there and is not: it is being deleted.") from None
            return found
        except NotFound as exc:
            raise Fail(exc.message, code="NamespaceNotFound") from exc
        return self._job(task, made)

    def find(self, task: Task, key: str) -> K8sJob | None:
        namespace = namespace_of(task, self._namespace(task.connection), self._options.namespaces)
        jobs = self._jobs(task.connection)
        try:
            found = ask(jobs.read_namespaced_job, job_name(key), namespace, doing="The Job cannot be read", user=True)
        except NotFound:
            return None
        if (found.metadata.labels or {}).get(KEY_LABEL) != key:
            raise Fail(f"There is a Job {found.metadata.name} in {namespace} that is not Airside's.", code="Conflict")
        return self._job(task, found)

    def get(self, job: K8sJob, call: Call) -> Resource:
        [resource] = self.get_many([job], call)
        if isinstance(resource, Exception):
            raise resource
        return resource

    def get_many(self, jobs: Sequence[K8sJob], call: Call) -> Sequence[Resource | Exception]:
        """One list of the Jobs and one of the pods of each namespace."""
        told: dict[str, Resource | Exception] = {}
        for namespace in dict.fromkeys(job.namespace for job in jobs):
            some = [job for job in jobs if job.namespace == namespace]
            for first in range(0, len(some), _ONE_LIST):
                told |= self._look_safely(namespace, some[first : first + _ONE_LIST], call)
        return [told[_id(job)] for job in jobs]

    def delete(self, job: K8sJob, call: Call) -> None:
        """Delete the Job with its pods; Kubernetes shows it until they have ended."""
        from kubernetes import client

        order = client.V1DeleteOptions(
            propagation_policy="Foreground", preconditions=client.V1Preconditions(uid=job.uid or None)
        )
        with suppress(NotFound, Conflict), faults():  # gone, or another one of this name
            self._check(job, call.connection)
            jobs = self._jobs(call.connection)
            ask(jobs.delete_namespaced_job, job.name, job.namespace, body=order, doing="The Job cannot be deleted")

    def links(self, job: K8sJob) -> Sequence[LogLink]:
        url = self._options.job_url.replace("{namespace}", job.namespace).replace("{name}", job.name)
        return (LogLink(url, "Kubernetes Job"),) if url else ()

    def logs(self, job: K8sJob, *, after: str, limit: int, call: Call) -> Iterator[LogLine]:
        """What the main container prints, as it comes; the cursor is the time of a line."""
        from airside.agents.k8s_job_logs import lines_of

        self._check(job, call.connection)
        pods = self._pods(call.connection)
        selector = f"{KEY_LABEL}={job.name.removeprefix(job_name(''))}"

        def newest() -> Any:
            found = ask(
                pods.list_namespaced_pod, job.namespace, label_selector=selector, doing="The pods cannot be listed"
            ).items
            if not found and self.get(job, call).phase.is_terminal:  # or it is `NotFound`, too
                raise NotFound("The pod of the Job is gone, and its log with it.")
            return max(found, key=lambda pod: pod.metadata.creation_timestamp, default=None)

        return lines_of(pods, newest, after=after, limit=limit, patience=_FOLLOW)

    # -- what is known of Jobs --------------------------------------------------------------------------------------

    def _look_safely(self, namespace: str, jobs: Sequence[K8sJob], call: Call) -> Mapping[str, Resource | Exception]:
        try:
            check_namespace(namespace, self._namespace(call.connection), self._options.namespaces)
            return self._look(namespace, jobs, call)
        except Exception as exc:  # noqa: BLE001 - the Jobs of another namespace are not to suffer from it
            return dict.fromkeys((_id(job) for job in jobs), fault_of(exc))

    def _look(self, namespace: str, jobs: Sequence[K8sJob], call: Call) -> dict[str, Resource | Exception]:
        # By their keys, not all that are managed: finished Jobs stay for their ttl, thousands of them on a busy day.
        keys = {job.name.removeprefix(job_name("")) for job in jobs}
        selector = f"{KEY_LABEL} in ({','.join(filter(is_key, keys))})"
        listed = every(self._jobs(call.connection).list_namespaced_job_with_http_info, namespace, selector, "Jobs")
        pods = every(self._pods(call.connection).list_namespaced_pod_with_http_info, namespace, selector, "pods")
        shown = {one.metadata.uid: one for one in listed.items}
        owned: dict[str, list[Any]] = {}
        for pod in pods.items:
            for owner in pod.metadata.owner_references or ():
                owned.setdefault(owner.uid, []).append(pod)
        told: dict[str, Resource | Exception] = {}
        for job in jobs:
            try:
                told[_id(job)] = self._resource(job, shown.get(job.uid), owned.get(job.uid, []), pods.at, call)
            except Exception as exc:  # noqa: BLE001 - the other Jobs are not to suffer from it
                told[_id(job)] = fault_of(exc)
        return told

    def _resource(self, job: K8sJob, found: Any, pods: Sequence[Any], now: float, call: Call) -> Resource:
        if found is None:
            raise NotFound(f"There is no Job {job.name} in {job.namespace} any more.")
        resource = replace(resource_of(found, pods), links=self.links(job))
        if resource.phase is Phase.SUCCEEDED:
            return _with_outputs(job, resource, pods)
        if resource.phase.is_failure:
            return replace(resource, outputs=OutputsAt(job.output_prefix) if job.output_prefix else None)
        trouble = trouble_of(pods)
        if trouble is not None and now - trouble.since > self._options.pending_timeout:
            self._give_up(job, f"{trouble.code} {trouble.message}", call)
        return resource

    def _give_up(self, job: K8sJob, reason: str, call: Call) -> None:
        """End a Job that would wait for ever. It says itself why, so that every replica of the service knows."""
        change = {"metadata": {"annotations": {GAVE_UP: reason}}, "spec": {"activeDeadlineSeconds": 1}}
        jobs = self._jobs(call.connection)
        ask(jobs.patch_namespaced_job, job.name, job.namespace, change, doing="The Job cannot be ended")

    def _job(self, task: Task, found: Any) -> K8sJob:
        pod = found.spec.template
        main = next(one for one in pod.spec.containers if one.name == main_of(pod))
        words = [*(main.command or ()), *(main.args or ())]
        return K8sJob(
            name=found.metadata.name,
            namespace=found.metadata.namespace,
            uid=found.metadata.uid,
            outputs=kinds_of(task, words),
            output_prefix=place_of(task, words),
        )

    # -- which cluster, as whom -------------------------------------------------------------------------------------

    def _defaults(self, namespace: str) -> Defaults:
        options = self._options
        return Defaults(
            namespace=namespace,
            ttl=options.ttl,
            service_account=options.service_account,
            manifests=options.manifests,
            image_pull_policy=options.image_pull_policy,
            host_network=options.host_network,
        )

    def _namespace(self, connection: Connection | None) -> str:
        given = connection.configs.get("namespace", "") if connection is not None else ""
        if given or self._options.namespace:
            return given or self._options.namespace
        own = ACCOUNT / "namespace"
        if not self._options.kubeconfig and own.exists():
            return own.read_text().strip()
        return "default"

    def _check(self, job: K8sJob, connection: Connection | None) -> None:
        """Whether this may be a Job of ours: handles come from outside, and our account may delete other things."""
        if not job.uid or job_name("") != job.name[: len(job_name(""))] or not is_key(job.name[len(job_name("")) :]):
            raise NotFound(f"{job.name!r} is no Job of Airside.")
        check_namespace(job.namespace, self._namespace(connection), self._options.namespaces)

    def _jobs(self, connection: Connection | None) -> Any:
        from kubernetes import client

        return client.BatchV1Api(self._clients.get(connection))

    def _pods(self, connection: Connection | None) -> Any:
        from kubernetes import client

        return client.CoreV1Api(self._clients.get(connection))


def _with_outputs(job: K8sJob, resource: Resource, pods: Sequence[Any]) -> Resource:
    """The outputs as the container told them in its last words, else as it wrote them under the output prefix."""
    if not job.outputs:
        return replace(resource, outputs=OutputsAt(job.output_prefix) if job.output_prefix else {})
    told: Mapping[str, Any] | None = said(pods)
    if told is None:
        return replace(resource, outputs=OutputsAt(job.output_prefix))
    left_out = {name: None for name, kind in job.outputs.items() if is_optional(kind)}
    try:
        values = {name: from_json(one, job.outputs.get(name, "any"), f"outputs.{name}") for name, one in told.items()}
    except ConversionError as exc:
        return replace(resource, phase=Phase.FAILED, message=str(exc), code="OutputConversionError")
    return replace(resource, outputs={**left_out, **values})


def _id(job: K8sJob) -> str:
    return job.uid or f"{job.namespace}/{job.name}"


__all__ = ("K8sJob", "K8sJobAgent", "K8sJobTask")
