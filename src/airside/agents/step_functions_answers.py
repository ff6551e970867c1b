"""What Step Functions says of an execution, in Airside's words: its states, its errors, its output."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from airside.agents.aws import words
from airside.agents.json_values import Kind, from_json, is_optional
from airside.model import ConversionError, Phase

log = logging.getLogger("airside.agents.step_functions")

STATES: Mapping[str, Phase] = {
    "RUNNING": Phase.RUNNING,
    "SUCCEEDED": Phase.SUCCEEDED,
    "FAILED": Phase.RETRYABLE_FAILED,  # or FAILED: the error says
    "TIMED_OUT": Phase.FAILED,
    "ABORTED": Phase.ABORTED,
    "PENDING_REDRIVE": Phase.QUEUED,
}
# Errors that come back however often the execution is repeated: of the state machine itself, or of its data.
PERMANENT = frozenset(
    {
        *("States.DataLimitExceeded", "States.IntrinsicFailure", "States.NoChoiceMatched"),
        *("States.ParameterPathFailure", "States.Permissions", "States.QueryEvaluationError"),
        *("States.ResultPathMatchFailure", "States.Runtime"),
    }
)
_TELLING = ("errorMessage", "ErrorMessage", "StatusReason", "StoppedReason", "FailureReason", "message")


class Reason(NamedTuple):
    """Why an execution ended without success."""

    phase: Phase
    code: str
    message: str


def phase_of(status: str) -> Phase:
    """The phase of a status; one that is not known yet is RUNNING, with a warning in the log.

    >>> phase_of("SUCCEEDED").name, phase_of("PAUSED").name
    ('SUCCEEDED', 'RUNNING')
    """
    known = STATES.get(status)
    if known is None:
        log.warning(
            "Step Functions names an execution's status %r, which is not known here; it is taken to run", status
        )
        return Phase.RUNNING
    return known


def reason_of(found: Mapping[str, Any]) -> Reason:
    """Why an execution has failed, ran out of time or was stopped.

    >>> reason_of({"status": "FAILED", "error": "States.Runtime", "cause": "no field $.x"})
    Reason(phase=<Phase.FAILED: 5>, code='States.Runtime', message='no field $.x')
    >>> reason_of({"status": "FAILED", "error": "E", "cause": '{"errorMessage": "no x", "stackTrace": []}'}).message
    'no x'
    """
    status, error = str(found["status"]), str(found.get("error") or "")
    message = cause_of(str(found.get("cause") or "")) or error
    match status:
        case "ABORTED":
            return Reason(Phase.ABORTED, "Cancelled", message or "The execution was stopped.")
        case "TIMED_OUT":
            return Reason(
                Phase.FAILED, "TimeLimit", message or "The execution took longer than its state machine allows."
            )
    phase = Phase.FAILED if error in PERMANENT else Phase.RETRYABLE_FAILED
    return Reason(phase, error or "ExecutionFailed", message or "Step Functions tells no reason.")


def cause_of(text: str) -> str:
    """The words of a cause: those in it, if it is the answer of a service or the error of a function."""
    try:
        told = json.loads(text)
    except ValueError:
        return words(text)
    if not isinstance(told, dict):
        return words(text)
    return words(next((str(told[name]) for name in _TELLING if told.get(name)), text))


def outputs_of(text: str | None, declared: Mapping[str, Kind]) -> dict[str, Any]:
    """The outputs of a task from the output of its execution. Raises `ConversionError` for one that is not there.

    >>> outputs_of('{"rows": 3, "more": 1}', {"rows": "int"}), outputs_of('[1, 2]', {"all": ["list", "int"]})
    ({'rows': 3}, {'all': [1, 2]})
    """
    if not declared:
        return {}
    if text is None:
        raise ConversionError("outputs", "Step Functions does not tell the execution's output")
    told = json.loads(text)
    made = {}
    for name, kind in declared.items():
        path = f"outputs.{name}"
        if isinstance(told, dict) and name in told:
            made[name] = from_json(told[name], kind, path)
        elif len(declared) == 1 and (not isinstance(told, dict) or _takes_object(kind)):
            made[name] = from_json(told, kind, path)
        elif is_optional(kind):
            made[name] = None
        else:
            fields = ", ".join(told) or "none" if isinstance(told, dict) else f"none, it is {text[:80]}"
            raise ConversionError(path, f"the execution's output has no such field (fields: {fields})")
    return made


def _takes_object(kind: Kind) -> bool:
    if isinstance(kind, list):
        return kind[0] == "dict" or (is_optional(kind) and _takes_object(kind[1]))
    return kind in ("any", "file", "directory", "dataset")


def facts(found: Mapping[str, Any]) -> dict[str, Any]:
    """How an execution ran, for `info`."""
    told = {
        "execution_arn": found.get("executionArn"),
        "state_machine": found.get("stateMachineArn"),
        "version": found.get("stateMachineVersionArn"),
        "alias": found.get("stateMachineAliasArn"),
        "status": found.get("status"),
        "started": _moment(found.get("startDate")),
        "stopped": _moment(found.get("stopDate")),
        "redrives": found.get("redriveCount"),
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _moment(value: Any) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else None
