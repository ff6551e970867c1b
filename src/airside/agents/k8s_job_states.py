"""What Kubernetes says of a Job and its pods, as a phase with a message in words."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airside.agents.k8s_job_manifest import GAVE_UP, MAIN
from airside.model import Phase, Resource

log = logging.getLogger("airside.agents.k8s_job")

CONDITIONS: Mapping[str, Phase] = {
    "Complete": Phase.SUCCEEDED,
    "Failed": Phase.RETRYABLE_FAILED,
    "FailureTarget": Phase.RUNNING,  # its pods are being ended
    "SuccessCriteriaMet": Phase.RUNNING,
    "Suspended": Phase.QUEUED,
}
"""Every condition of a Job."""
POD_PHASES: Mapping[str, Phase] = {
    "Pending": Phase.QUEUED,
    "Running": Phase.RUNNING,
    "Succeeded": Phase.RUNNING,  # the Job says when it is complete
    "Failed": Phase.RUNNING,
    "Unknown": Phase.RUNNING,
}
"""Every phase of a pod, as the phase of a Job that is not over."""

DISRUPTIONS: Mapping[str, tuple[str, str]] = {
    "DeletionByPodGC": ("NodeFailed", "its node is gone"),
    "DeletionByTaintManager": ("NodeFailed", "its node may no longer run it"),
    "EvictionByEvictionAPI": ("Evicted", "evicted from its node, as when one is drained"),
    "PreemptionByScheduler": ("Preempted", "another pod took its place"),
    "TerminationByKubelet": ("NodeFailed", "its node ended it"),
}
"""Why a cluster ends a pod of its own accord: the code, and the reason in words."""

_PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_STUCK = (*_PULLING, "CreateContainerConfigError", "CreateContainerError", "RegistryUnavailable")
_NODE = ("NodeLost", "NodeShutdown", "Shutdown", "Terminated", "NodeAffinity", "UnexpectedAdmissionError")
_CANNOT_START = ("StartError", "ContainerCannotRun", "CreateContainerError", "CreateContainerConfigError")
_LONGEST = 500  # characters of a message


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not start, and since when: an image that cannot be pulled, a container that cannot be made."""

    code: str
    message: str
    since: float


def resource_of(job: Any, pods: Sequence[Any]) -> Resource:
    """What is known of a Job by its own status and by its pods, objects of the Kubernetes client.

    Outputs are not part of it.
    """
    newest = max(pods, key=_created, default=None)
    info = _facts(job, newest)
    done = {one.type: one for one in job.status.conditions or () if one.status == "True"}
    for condition in done:
        if condition not in CONDITIONS:
            log.warning("Kubernetes names a condition of a Job that is not in the table: %s", condition)
    if "Complete" in done:
        return Resource(Phase.SUCCEEDED, message="Complete", info=info)
    if "Failed" in done:
        return _failed(job, done["Failed"], pods, info)
    if "Suspended" in done or job.spec.suspend:
        return Resource(Phase.QUEUED, message="the Job is suspended", info=info)
    if newest is None:
        return Resource(Phase.QUEUED, message="no pod yet", info=info)
    return _unfinished(newest, info)


def trouble_of(pods: Sequence[Any]) -> Trouble | None:
    """What keeps the newest pod from starting, if it is something that does not pass by itself."""
    newest = max(pods, key=_created, default=None)
    for state in _states(newest):
        waiting = state.state.waiting if state.state else None
        if waiting is not None and waiting.reason in _STUCK:
            code = "ImagePullFailed" if waiting.reason in _PULLING else "CannotStart"
            return Trouble(code, f"{waiting.reason}: {_words(waiting.message) or state.image}", _created(newest))
    return None


def said(pods: Sequence[Any]) -> Mapping[str, Any] | None:
    """The JSON object that the main container left as its last words, or None."""
    for pod in sorted(pods, key=_created, reverse=True):
        ended = _ended(_main(pod))
        if ended is not None and ended.exit_code == 0 and ended.message:
            try:
                told = json.loads(ended.message)
            except ValueError:
                return None
            return told if isinstance(told, dict) else None
    return None


def main_of(pod: Any) -> str:
    """The name of the container that is the task's: `main`, else the first. Statuses come in another order."""
    names = [one.name for one in pod.spec.containers]
    return MAIN if MAIN in names else str(names[0])


def _unfinished(pod: Any, info: Mapping[str, Any]) -> Resource:
    phase = POD_PHASES.get(pod.status.phase)
    if phase is None:
        log.warning("Kubernetes names a phase of a pod that is not in the table: %s", pod.status.phase)
        phase = Phase.RUNNING
    if phase is not Phase.QUEUED:
        return Resource(phase, message=f"pod {pod.metadata.name}: {pod.status.phase}", info=info)
    trouble = trouble_of([pod])
    if trouble is not None:
        return Resource(Phase.INITIALIZING, message=trouble.message, info=info)
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            words = _words(condition.message) or condition.reason or ""
            return Resource(Phase.WAITING_FOR_RESOURCES, message=f"not scheduled: {words}", info=info)
    reasons = [one.state.waiting.reason for one in _states(pod) if one.state and one.state.waiting]
    started = any(reasons) or bool(pod.spec.node_name)
    message = next((reason for reason in reasons if reason), "the pod waits for its node")
    return Resource(Phase.INITIALIZING if started else Phase.QUEUED, message=message, info=info)


def _failed(job: Any, condition: Any, pods: Sequence[Any], info: Mapping[str, Any]) -> Resource:
    gave_up = (job.metadata.annotations or {}).get(GAVE_UP)
    if gave_up:
        code, _, message = gave_up.partition(" ")
        return Resource(Phase.FAILED, message=message, code=code, info=info)
    if condition.reason == "DeadlineExceeded":
        message = f"it ran longer than its deadline of {job.spec.active_deadline_seconds} s"
        return Resource(Phase.FAILED, message=message, code="TimeLimit", info=info)
    broken = [pod for pod in sorted(pods, key=_created, reverse=True) if pod.status.phase == "Failed"]
    if broken:
        return _why(broken[0], info)
    message = f"{condition.reason}: {_words(condition.message)}" if condition.message else condition.reason or "Failed"
    return Resource(Phase.RETRYABLE_FAILED, message=f"{message} (its pod is gone)", code="JobFailed", info=info)


def _why(pod: Any, info: Mapping[str, Any]) -> Resource:
    """Why a pod failed: the node's reasons first, then those of its containers."""
    reason, words = pod.status.reason or "", _words(pod.status.message)
    if reason == "Evicted":
        return Resource(Phase.RETRYABLE_FAILED, message=f"evicted from its node: {words}", code="Evicted", info=info)
    disruption = "PreemptionByScheduler" if reason == "Preempting" else _disruption(pod)
    if disruption in DISRUPTIONS:
        code, told = DISRUPTIONS[disruption]
        return Resource(Phase.RETRYABLE_FAILED, message=f"{told}: {words}".rstrip(": "), code=code, info=info)
    if reason in _NODE:
        return Resource(
            Phase.RETRYABLE_FAILED, message=f"its node failed ({reason}): {words}", code="NodeFailed", info=info
        )
    for state in _states(pod):
        ended = _ended(state)
        if ended is not None and (ended.exit_code or ended.reason == "OOMKilled"):
            return _container_failed(pod, state, ended, info)
    return Resource(
        Phase.RETRYABLE_FAILED, message=f"the pod failed: {reason} {words}".strip(), code="PodFailed", info=info
    )


def _container_failed(pod: Any, state: Any, ended: Any, info: Mapping[str, Any]) -> Resource:
    name = "" if state.name == main_of(pod) else f"container {state.name}: "
    if ended.reason == "OOMKilled":
        limit = next((one.resources.limits or {} for one in pod.spec.containers if one.name == state.name), {})
        least = f" of {limit['memory']}" if "memory" in limit else ""
        message = f"{name}it used more memory than its limit{least}"
        return Resource(Phase.RETRYABLE_FAILED, message=message, code="OutOfMemory", info=info)
    if ended.reason in _CANNOT_START:
        message = f"{name}it cannot be started: {_words(ended.message)}"
        return Resource(Phase.FAILED, message=message, code="CannotStart", info=info)
    manner = f"killed by signal {ended.signal}" if ended.signal else f"exited with {ended.exit_code}"
    last = next((line.strip() for line in reversed((ended.message or "").splitlines()) if line.strip()), "")
    message = f"{name}{manner}: {last[:_LONGEST]}" if last else f"{name}{manner}"
    return Resource(Phase.RETRYABLE_FAILED, message=message, code="ContainerFailed", info=info)


def _disruption(pod: Any) -> str:
    """Why the cluster ended a pod, as newer versions tell it; empty if it did not."""
    conditions = pod.status.conditions or ()
    return next((one.reason or "" for one in conditions if one.type == "DisruptionTarget" and one.status == "True"), "")


def _states(pod: Any) -> list[Any]:
    """The states of a pod's containers, the main one first."""
    if pod is None:
        return []
    states = [*(pod.status.container_statuses or ()), *(pod.status.init_container_statuses or ())]
    return sorted(states, key=lambda state: state.name != main_of(pod))


def _main(pod: Any) -> Any:
    return next((one for one in pod.status.container_statuses or () if one.name == main_of(pod)), None)


def _ended(state: Any) -> Any:
    return state.state.terminated if state is not None and state.state else None


def _created(pod: Any) -> float:
    return float(pod.metadata.creation_timestamp.timestamp()) if pod.metadata.creation_timestamp else 0.0


def _words(text: str | None) -> str:
    return " ".join((text or "").split())[:_LONGEST]


def _facts(job: Any, pod: Any) -> Mapping[str, Any]:
    facts: dict[str, Any] = {"job": job.metadata.name, "namespace": job.metadata.namespace}
    times = {"start_time": job.status.start_time, "completion_time": job.status.completion_time}
    facts |= {name: _instant(value) for name, value in times.items() if value}
    if pod is not None:
        facts["pod"] = pod.metadata.name
        if pod.spec.node_name:
            facts["node"] = pod.spec.node_name
        ended = _ended(_main(pod))
        if ended is not None:
            facts["exit_status"] = ended.exit_code
    return facts


def _instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()
