"""What AWS Batch says of a job, in Airside's words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from airside.agents.cloudwatch_logs import LogPlace
from airside.agents.ecs_reasons import Reason, reason_of
from airside.model import Phase

log = logging.getLogger("airside.agents.aws_batch")

STATES: Mapping[str, Phase] = {
    "SUBMITTED": Phase.QUEUED,
    "PENDING": Phase.QUEUED,  # another job has to end first
    "RUNNABLE": Phase.WAITING_FOR_RESOURCES,
    "STARTING": Phase.INITIALIZING,
    "RUNNING": Phase.RUNNING,
    "SUCCEEDED": Phase.SUCCEEDED,
    "FAILED": Phase.RETRYABLE_FAILED,  # `reason_for` says more
}
_GROUP = "/aws/batch/job"


def phase_of(state: str) -> Phase:
    """The phase of a state; one that is not known yet is RUNNING, with a warning in the log.

    >>> phase_of("RUNNABLE").name, phase_of("PAUSED").name
    ('WAITING_FOR_RESOURCES', 'RUNNING')
    """
    known = STATES.get(state)
    if known is None:
        log.warning("AWS Batch names a job's state %r, which is not known here; the job is taken to run", state)
        return Phase.RUNNING
    return known


def reason_for(job: Mapping[str, Any], last: str = "") -> Reason:
    """Why a job has failed. `last`: the last words of its log.

    >>> reason_for({"statusReason": "Cancelled by Airside", "isTerminated": True}).phase.name
    'ABORTED'
    >>> reason_for({"statusReason": "Host EC2 (instance i-0a) terminated."}).code
    'NodeFailed'
    """
    container = job.get("container") or {}
    told = [str(container.get("reason") or ""), str(job.get("statusReason") or "")]
    reason = reason_of(told, exit_of(job), last)
    if (job.get("isCancelled") or job.get("isTerminated")) and reason.code in ("ContainerFailed", "JobFailed"):
        return Reason(Phase.ABORTED, "Cancelled", told[1] or reason.message)
    return reason


def exit_of(job: Mapping[str, Any]) -> int | None:
    """The exit code of a job's container, if it has ended by itself."""
    code = (job.get("container") or {}).get("exitCode")
    return None if code is None else int(code)


def log_place(job: Mapping[str, Any]) -> LogPlace:
    """Where the newest attempt of a job writes its log."""
    container = job.get("container") or {}
    configured = container.get("logConfiguration") or {}
    options = configured.get("options") or {}
    is_ours = configured.get("logDriver", "awslogs") == "awslogs"
    over = phase_of(str(job["status"])).is_terminal
    ended = float(job.get("stoppedAt") or 0) / 1000
    stream = str(container.get("logStreamName") or "") if is_ours else ""
    return LogPlace(options.get("awslogs-group") or _GROUP, stream, ended if over else None)


def facts(job: Mapping[str, Any], region: str) -> dict[str, Any]:
    """What is known of a job, for `info`."""
    container = job.get("container") or {}
    told = {
        "job_id": job.get("jobId"),
        "job_name": job.get("jobName"),
        "region": region,
        "queue": _short(job.get("jobQueue")),
        "definition": _short(job.get("jobDefinition")),
        "status": job.get("status"),
        "attempts": len(job.get("attempts") or ()) or None,
        "exit_status": exit_of(job),
        "log_stream": container.get("logStreamName"),
        **{name: _instant(job.get(key)) for name, key in _TIMES.items()},
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


_TIMES = {"created_at": "createdAt", "started_at": "startedAt", "stopped_at": "stoppedAt"}


def _short(arn: Any) -> str:
    return str(arn or "").rpartition("/")[2]


def _instant(milliseconds: Any) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds") if milliseconds else ""
