"""What Amazon ECS says of a task, in Airside's words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from airside.agents.ecs_reasons import Reason, reason_of
from airside.model import Phase

log = logging.getLogger("airside.agents.ecs_task")

STATES: Mapping[str, Phase] = {
    "PROVISIONING": Phase.WAITING_FOR_RESOURCES,
    "PENDING": Phase.INITIALIZING,
    "ACTIVATING": Phase.INITIALIZING,
    "RUNNING": Phase.RUNNING,
    "DEACTIVATING": Phase.RUNNING,
    "STOPPING": Phase.RUNNING,
    "DEPROVISIONING": Phase.RUNNING,
    "STOPPED": Phase.SUCCEEDED,  # or a failure: `end_of` says
    "DELETED": Phase.SUCCEEDED,
}
STOPS: Mapping[str, Phase] = {
    "EssentialContainerExited": Phase.SUCCEEDED,  # if its exit code is 0
    "TaskFailedToStart": Phase.RETRYABLE_FAILED,
    "UserInitiated": Phase.ABORTED,
    "ServiceSchedulerInitiated": Phase.RETRYABLE_FAILED,
    "SpotInterruption": Phase.RETRYABLE_FAILED,
    "TerminationNotice": Phase.RETRYABLE_FAILED,
    "InfrastructureHealth": Phase.RETRYABLE_FAILED,
}
_TIMES = {"created_at": "createdAt", "started_at": "startedAt", "stopped_at": "stoppedAt"}


def phase_of(state: str) -> Phase:
    """The phase of a state; one that is not known yet is RUNNING, with a warning in the log.

    >>> phase_of("PENDING").name, phase_of("PAUSED").name
    ('INITIALIZING', 'RUNNING')
    """
    known = STATES.get(state)
    if known is None:
        log.warning("ECS names a task's state %r, which is not known here; the task is taken to run", state)
        return Phase.RUNNING
    return known


def succeeded(told: Mapping[str, Any], container: str) -> bool:
    """True if a stopped task's container has done what it was asked, and nothing else has stopped it."""
    stop = told.get("stopCode") or "EssentialContainerExited"
    return exit_of(told, container) == 0 and STOPS.get(stop) is Phase.SUCCEEDED


def reason_for(told: Mapping[str, Any], container: str, last: str = "") -> Reason:
    """Why a stopped task has not succeeded. `last`: the last words of its log.

    >>> reason_for({"stopCode": "UserInitiated", "stoppedReason": "Cancelled by Airside"}, "main").phase.name
    'ABORTED'
    >>> reason_for({"stopCode": "SpotInterruption", "stoppedReason": "Your Spot Task was interrupted."}, "main").code
    'Preempted'
    """
    said = str(told.get("stoppedReason") or "")
    if STOPS.get(str(told.get("stopCode"))) is Phase.ABORTED:
        return Reason(Phase.ABORTED, "Cancelled", said)
    main = _container(told, container)
    others = [str(one.get("reason") or "") for one in told.get("containers") or () if one is not main]
    told_of = [str(main.get("reason") or ""), said, *others, str(told.get("stopCode") or "")]
    return reason_of(told_of, exit_of(told, container), last)


def exit_of(told: Mapping[str, Any], container: str) -> int | None:
    """The exit code of the task's container, if it has ended by itself."""
    code = _container(told, container).get("exitCode")
    return None if code is None else int(code)


def runtime_of(told: Mapping[str, Any], container: str) -> str:
    """The id that the container has on its machine."""
    return str(_container(told, container).get("runtimeId") or "")


def facts(told: Mapping[str, Any], container: str, region: str) -> dict[str, Any]:
    """What is known of a task, for `info`."""
    known = {
        "task_arn": told.get("taskArn"),
        "region": region,
        "cluster": str(told.get("clusterArn") or "").rpartition("/")[2],
        "definition": str(told.get("taskDefinitionArn") or "").rpartition("/")[2],
        "status": told.get("lastStatus"),
        "launch_type": told.get("capacityProviderName") or told.get("launchType"),
        "zone": told.get("availabilityZone"),
        "cpu": told.get("cpu"),
        "memory": told.get("memory"),
        "stop_code": told.get("stopCode"),
        "exit_status": exit_of(told, container),
        **{name: _instant(told.get(key)) for name, key in _TIMES.items()},
    }
    return {name: value for name, value in known.items() if value not in (None, "")}


def _container(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next((one for one in told.get("containers") or () if one.get("name") == name), {})
    return found


def _instant(value: Any) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds") if isinstance(value, datetime) else ""
