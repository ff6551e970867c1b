"""What Glue says of a job run, in Airside's words: its states, its errors, its facts."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from airside.agents.aws import words
from airside.model import Phase

log = logging.getLogger("airside.agents.glue")

STATES: Mapping[str, Phase] = {
    "WAITING": Phase.QUEUED,
    "STARTING": Phase.INITIALIZING,
    "RUNNING": Phase.RUNNING,
    "STOPPING": Phase.RUNNING,
    "STOPPED": Phase.ABORTED,
    "SUCCEEDED": Phase.SUCCEEDED,
    "FAILED": Phase.RETRYABLE_FAILED,
    "ERROR": Phase.RETRYABLE_FAILED,
    "EXPIRED": Phase.RETRYABLE_FAILED,
    "TIMEOUT": Phase.FAILED,
}
_CODES = {"STOPPED": "Cancelled", "ERROR": "SystemError", "EXPIRED": "Expired", "TIMEOUT": "TimeLimit"}
_WORDS = {
    "STOPPED": "The run was stopped.",
    "EXPIRED": "The run waited too long for its turn.",
    "TIMEOUT": "The run took longer than its timeout.",
}
_ERROR = re.compile(r"\b([A-Z]\w*(?:Error|Exception))\b")
_CATEGORY = re.compile(r"Error Category: ([A-Z]+(?:_[A-Z]+)*)")


class Reason(NamedTuple):
    """Why a run ended without success."""

    code: str
    message: str


def phase_of(state: str) -> Phase:
    """The phase of a state; one that is not known yet is RUNNING, with a warning in the log.

    >>> phase_of("WAITING").name, phase_of("PAUSED").name
    ('QUEUED', 'RUNNING')
    """
    known = STATES.get(state)
    if known is None:
        log.warning("Glue names a run's state %r, which is not known here; the run is taken to run", state)
        return Phase.RUNNING
    return known


def reason_of(run: Mapping[str, Any]) -> Reason:
    """Why a run has failed or was stopped: the script's own error by its name, else Glue's category.

    >>> reason_of({"JobRunState": "FAILED", "ErrorMessage": "Error Category: QUERY_ERROR; AnalysisException: no t"})
    Reason(code='AnalysisException', message='Error Category: QUERY_ERROR; AnalysisException: no t')
    >>> reason_of({"JobRunState": "TIMEOUT"}).message
    'The run took longer than its timeout.'
    """
    state = str(run["JobRunState"])
    told = words(str(run.get("ErrorMessage") or run.get("StateDetail") or ""))
    message = told or _WORDS.get(state, "Glue tells no reason.")
    if state in _CODES:
        return Reason(_CODES[state], message)
    error, category = _ERROR.search(told), _CATEGORY.search(told)
    if error is not None:
        return Reason(error[1], message)
    named = "".join(part.capitalize() for part in category[1].split("_")) if category is not None else ""
    return Reason(named or "JobFailed", message)


def facts(run: Mapping[str, Any], region: str) -> dict[str, Any]:
    """What a run has used and how it ran, for `info`."""
    told = {
        "job": run.get("JobName"),
        "run_id": run.get("Id"),
        "region": region,
        "state": run.get("JobRunState"),
        "state_detail": run.get("StateDetail"),
        "started": _moment(run.get("StartedOn")),
        "completed": _moment(run.get("CompletedOn")) if phase_of(str(run["JobRunState"])).is_terminal else None,
        "execution_seconds": run.get("ExecutionTime"),
        "dpu_seconds": run.get("DPUSeconds"),
        "max_capacity": run.get("MaxCapacity"),
        "worker_type": run.get("WorkerType"),
        "workers": run.get("NumberOfWorkers"),
        "execution_class": run.get("ExecutionClass"),
        "glue_version": run.get("GlueVersion"),
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _moment(value: Any) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else None
