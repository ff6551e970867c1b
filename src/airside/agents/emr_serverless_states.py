"""What EMR Serverless says of a job run, in Airside's words: its states, its errors, its facts."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from airside.agents.aws import words
from airside.model import Phase

log = logging.getLogger("airside.agents.emr_serverless")

STATES: Mapping[str, Phase] = {
    "SUBMITTED": Phase.QUEUED,
    "PENDING": Phase.QUEUED,
    "QUEUED": Phase.QUEUED,
    "SCHEDULED": Phase.INITIALIZING,
    "RUNNING": Phase.RUNNING,
    "CANCELLING": Phase.RUNNING,
    "SUCCESS": Phase.SUCCEEDED,
    "FAILED": Phase.RETRYABLE_FAILED,
    "CANCELLED": Phase.ABORTED,
}
ACTIVE = tuple(state for state, phase in STATES.items() if not phase.is_terminal)
_LATE = re.compile(r"time(d)?[ -]?out|exceeded .*(duration|time)", re.IGNORECASE)
_ERROR = re.compile(r"\b([A-Z]\w*(?:Error|Exception))\b")
_USED = {"vCPUHour": "vcpu_hours", "memoryGBHour": "memory_gb_hours", "storageGBHour": "storage_gb_hours"}


class Reason(NamedTuple):
    """Why a run ended without success."""

    phase: Phase
    code: str
    message: str


def phase_of(state: str) -> Phase:
    """The phase of a state; one that is not known yet is RUNNING, with a warning in the log.

    >>> phase_of("SCHEDULED").name, phase_of("PAUSED").name
    ('INITIALIZING', 'RUNNING')
    """
    known = STATES.get(state)
    if known is None:
        log.warning("EMR Serverless names a run's state %r, which is not known here; the run is taken to run", state)
        return Phase.RUNNING
    return known


def reason_of(run: Mapping[str, Any]) -> Reason:
    """Why a run has failed or was cancelled, by whoever: EMR itself cancels what takes too long.

    >>> reason_of({"state": "FAILED", "stateDetails": "ExitCode: 1. Last few exceptions: ValueError: x"}).code
    'ValueError'
    >>> reason_of({"state": "CANCELLED"}).phase.name
    'ABORTED'
    """
    told = words(str(run.get("stateDetails") or ""))
    if _LATE.search(told):
        return Reason(Phase.FAILED, "TimeLimit", told)
    if run["state"] == "CANCELLED":
        return Reason(Phase.ABORTED, "Cancelled", told or "The run was cancelled.")
    error = _ERROR.search(told)
    code = error[1] if error is not None else "JobFailed"
    return Reason(Phase.RETRYABLE_FAILED, code, told or "EMR Serverless tells no reason.")


def facts(run: Mapping[str, Any], region: str) -> dict[str, Any]:
    """What a run has used and how it ran, for `info`."""
    used = run.get("billedResourceUtilization") or {}
    told = {
        "application_id": run.get("applicationId"),
        "job_run_id": run.get("jobRunId") or run.get("id"),
        "region": region,
        "state": run.get("state"),
        "name": run.get("name"),
        "release_label": run.get("releaseLabel"),
        "attempt": run.get("attempt"),
        "created": _moment(run.get("createdAt")),
        "started": _moment(run.get("startedAt")),
        "ended": _moment(run.get("endedAt")),
        "execution_seconds": run.get("totalExecutionDurationSeconds"),
        "queued_ms": run.get("queuedDurationMilliseconds"),
        **{name: used.get(known_as) for known_as, name in _USED.items()},
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _moment(value: Any) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else None
