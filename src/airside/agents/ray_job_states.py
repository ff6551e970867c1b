"""Where a Ray job stands: its status and error type, and what they mean here.

The tables are complete as of the Ray that the tests install; one of them fails when Ray knows more. A status that is in
no table is taken for a running one, so that a task outlives a release of Ray.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from airside.model import Phase, Resource

log = logging.getLogger("airside.agents.ray_job")

STATES: Mapping[str, Phase] = {
    "PENDING": Phase.QUEUED,
    "RUNNING": Phase.RUNNING,
    "STOPPED": Phase.ABORTED,
    "SUCCEEDED": Phase.SUCCEEDED,
    "FAILED": Phase.RETRYABLE_FAILED,
}
"""Every status of a job."""

ERRORS: Mapping[str, tuple[Phase, str]] = {
    "JOB_ENTRYPOINT_COMMAND_ERROR": (Phase.RETRYABLE_FAILED, "JobFailed"),
    # the task's own doing: the same again would fail again
    "JOB_ENTRYPOINT_COMMAND_START_ERROR": (Phase.FAILED, "CannotStart"),
    "JOB_SUPERVISOR_ACTOR_START_FAILURE": (Phase.FAILED, "CannotStart"),
    "RUNTIME_ENV_SETUP_FAILURE": (Phase.FAILED, "RuntimeEnvFailed"),  # Ray itself has tried three times
    # the cluster's
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT": (Phase.RETRYABLE_FAILED, "StartTimeout"),
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE": (Phase.RETRYABLE_FAILED, "CannotSchedule"),
    "JOB_SUPERVISOR_ACTOR_DIED": (Phase.RETRYABLE_FAILED, "NodeFailed"),
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE": (Phase.RETRYABLE_FAILED, "SystemError"),
}
"""Why a job failed: phase and error code."""

_LAST_LINES = 10
_LONGEST = 2000  # characters of a message
_LOG_FOLLOWS = re.compile(r",? last available logs \(truncated to [\d,]+ chars\):\s*")
_RAYS_OWN = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+\t[A-Z]+ job_manager\.py:|Running entrypoint for job ")


def resource_of(told: Mapping[str, Any]) -> Resource:
    """What is known of a job by its details in Ray's answer. Outputs and links are not part of it."""
    status = str(told.get("status"))
    phase = STATES.get(status)
    if phase is None:
        log.warning("Ray names a status of a job that is not in the table: %s", status)
        return Resource(Phase.RUNNING, message=f"Ray says {status}.", info=_facts(told))
    code = {Phase.ABORTED: "Canceled", Phase.RETRYABLE_FAILED: "JobFailed"}.get(phase, "")
    if status == "FAILED" and told.get("error_type"):
        phase, code = ERRORS.get(str(told["error_type"]), (phase, code))
    return Resource(phase, message=_words(str(told.get("message") or "")), code=code, info=_facts(told))


def _words(message: str) -> str:
    """Ray's message without its own traceback, and with the last lines of the job's log.

    >>> _words("It failed with exit code 3, last available logs (truncated to 20,000 chars):\\nno!\\n")
    'It failed with exit code 3:\\nno!'
    """
    head, *tail = _LOG_FOLLOWS.split(message.partition(" Full traceback:")[0].strip(), maxsplit=1)
    lines = [line for text in tail for line in text.splitlines() if line.strip() and not _RAYS_OWN.match(line)]
    if not lines:
        return head[:_LONGEST]
    return f"{head}:\n" + "\n".join(lines[-_LAST_LINES:])[-_LONGEST:]


def _facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """What people want to know of a job: its ids, where its driver runs, when."""
    names = ("submission_id", "job_id", "entrypoint", "driver_node_id", "driver_exit_code", "error_type")
    facts: dict[str, Any] = {name: told[name] for name in names if told.get(name) is not None}
    for name in ("start_time", "end_time"):
        if told.get(name):
            facts[name] = datetime.fromtimestamp(told[name] / 1000, UTC).isoformat()
    return facts
