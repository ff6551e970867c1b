"""What BigQuery says of a job or a failure, in Airside's words: two tables and their readers.

Everything here reads the JSON of the REST API, so that a poll needs no object of the SDK for each of a hundred jobs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from airside.agents.faults import fault_of
from airside.model import ConversionError, Fail, NotFound, Phase, Retry, UsageError

log = logging.getLogger("airside.agents.bigquery")

STATES: Mapping[str, Phase] = {
    "PENDING": Phase.QUEUED,
    "RUNNING": Phase.RUNNING,
    "DONE": Phase.SUCCEEDED,  # or failed: `errorResult` says
}


class Reason(NamedTuple):
    """What a reason of BigQuery means: the code that Flyte shows, and the phase that a job ends in by it."""

    code: str
    phase: Phase = Phase.FAILED


REASONS: Mapping[str, Reason] = {
    "accessDenied": Reason("Forbidden"),
    "attributeError": Reason("InvalidQuery"),
    "backendError": Reason("BackendError", Phase.RETRYABLE_FAILED),
    "badGateway": Reason("BackendError", Phase.RETRYABLE_FAILED),
    "billingNotEnabled": Reason("BillingNotEnabled"),
    "billingTierLimitExceeded": Reason("ResourcesExceeded"),
    "blocked": Reason("Blocked"),
    "bytesBilledLimitExceeded": Reason("BytesBilledLimitExceeded"),
    "duplicate": Reason("AlreadyExists"),
    "internalError": Reason("BackendError", Phase.RETRYABLE_FAILED),
    "invalid": Reason("Invalid"),
    "invalidQuery": Reason("InvalidQuery"),
    "invalidUser": Reason("Forbidden"),
    "jobBackendError": Reason("BackendError", Phase.RETRYABLE_FAILED),
    "jobInternalError": Reason("BackendError", Phase.RETRYABLE_FAILED),
    "jobRateLimitExceeded": Reason("QuotaExceeded", Phase.RETRYABLE_FAILED),
    "notFound": Reason("NotFound"),
    "notImplemented": Reason("NotImplemented"),
    "policyViolation": Reason("Forbidden"),
    "quotaExceeded": Reason("QuotaExceeded", Phase.RETRYABLE_FAILED),
    "rateLimitExceeded": Reason("QuotaExceeded", Phase.RETRYABLE_FAILED),
    "resourceInUse": Reason("ResourceInUse", Phase.RETRYABLE_FAILED),
    "resourcesExceeded": Reason("ResourcesExceeded"),
    "responseTooLarge": Reason("ResponseTooLarge"),
    "stopped": Reason("Cancelled", Phase.ABORTED),
    "tableUnavailable": Reason("BackendError", Phase.RETRYABLE_FAILED),
    "timeout": Reason("Timeout"),
}

_LONGEST_WARNING = 500  # characters
_MOST_WARNINGS = 5


def read(job: Any) -> Mapping[str, Any]:
    """The answer that a job of the SDK was made of: it has no public way to the whole."""
    answer: Mapping[str, Any] = job._properties
    return answer


def phase_of(state: str) -> Phase:
    """The phase of a state; one that is not known yet is RUNNING, with a warning in the log.

    >>> phase_of("PENDING").name, phase_of("PAUSED").name
    ('QUEUED', 'RUNNING')
    """
    known = STATES.get(state)
    if known is None:
        log.warning("BigQuery names a job's state %r, which is not known here; the job is taken to run", state)
        return Phase.RUNNING
    return known


def reason_of(error: Mapping[str, Any]) -> Reason:
    """What an `errorResult` means; an unknown reason fails for good, under its own name."""
    reason = str(error.get("reason") or "error")
    if reason == "stopped" and "timed out" in str(error.get("message")):
        reason = "timeout"  # a job's own limit is told as if somebody had cancelled it
    return REASONS.get(reason) or Reason(reason[:1].upper() + reason[1:])


def words_of(error: Mapping[str, Any]) -> str:
    """An error in one line: its message, and where."""
    where = str(error.get("location") or "")
    message = " ".join(str(error.get("message") or error.get("reason") or "no message").split())
    return f"{message} (at {where})" if where and where != "query" and where not in message else message


def failure(exc: Exception, *, creating: bool) -> Exception:
    """The error of a call to BigQuery as an agent raises it: `Retry`, `Fail` or `NotFound`.

    Only a create fails for good: a job that is there is asked for again, whatever the answer was.
    """
    code = getattr(exc, "code", None)
    if not isinstance(code, int):
        return _without_answer(exc) if creating else fault_of(_without_answer(exc))
    errors = [dict(one) for one in getattr(exc, "errors", None) or () if isinstance(one, Mapping)]
    error = errors[0] if errors else {}
    message = words_of({"message": getattr(exc, "message", "") or str(exc), **error})
    text = f"BigQuery answered {int(code)}: {message}"
    retry_after = _seconds(getattr(getattr(exc, "response", None), "headers", None) or {})
    reason = REASONS.get(str(error.get("reason") or ""))
    if reason is not None and reason.phase is Phase.RETRYABLE_FAILED:
        return Retry(text, after=retry_after)
    if code in (401, 408, 425, 429) or code >= 500:
        return Retry(text, after=retry_after)
    if not creating:
        return NotFound(text) if code == 404 else Retry(text, after=retry_after)
    if reason is None:
        reason = Reason({403: "Forbidden", 404: "NotFound"}.get(int(code), "Invalid"))
    return Fail(message, code=reason.code)


def is_denied(exc: Exception) -> bool:
    """True if an account lacks a permission; quotas are answered with the same status."""
    errors = getattr(exc, "errors", None) or [{}]
    return dict(errors[0]).get("reason") == "accessDenied"


def is_refused(exc: Exception) -> bool:
    """True if the credentials were refused, which new ones may mend."""
    return getattr(exc, "code", None) == 401 or type(exc).__name__ == "RefreshError"


def _without_answer(exc: Exception) -> Exception:
    """A call that brought no answer of BigQuery's: the network, a malformed body, or no credentials."""
    name = type(exc).__name__
    words = " ".join(str(exc).split())[:_LONGEST_WARNING] or name
    if name == "DefaultCredentialsError":
        return Retry(f"There are no credentials for BigQuery: {words}", after=60)
    if isinstance(exc, Fail | Retry | NotFound | ConversionError):
        return exc
    if isinstance(exc, UsageError):  # a secret that is not there, say
        return Retry(str(exc), after=60)
    return Retry(f"BigQuery could not be asked: {name}: {words}")


def _seconds(headers: Mapping[str, str]) -> float | None:
    try:
        return min(max(float(headers.get("Retry-After") or headers.get("retry-after") or ""), 0.0), 3600.0)
    except ValueError:
        return None


def facts(job: Mapping[str, Any], estimate: int | None) -> dict[str, Any]:
    """What a job has cost and how far it is, for `info`."""
    statistics = job.get("statistics") or {}
    query = statistics.get("query") or {}
    reference = job.get("jobReference") or {}
    told: dict[str, Any] = {
        "job_id": reference.get("jobId"),
        "project": reference.get("projectId"),
        "location": reference.get("location"),
        "statement_type": query.get("statementType"),
        "bytes_estimated": estimate,
        "bytes_processed": _whole(query.get("totalBytesProcessed", statistics.get("totalBytesProcessed"))),
        "bytes_billed": _whole(query.get("totalBytesBilled")),
        "cache_hit": query.get("cacheHit"),
        "slot_ms": _whole(query.get("totalSlotMs", statistics.get("totalSlotMs"))),
        "rows_changed": _whole(query.get("numDmlAffectedRows")),
        "child_jobs": _whole(statistics.get("numChildJobs")),
        "stages": progress(query),
        "seconds": _duration(statistics),
        "warnings": _warnings(job),
    }
    return {name: value for name, value in told.items() if value is not None and value != []}


def estimate_of(dry_run: Mapping[str, Any]) -> int | None:
    """The bytes that a dry run says would be read."""
    statistics = dry_run.get("statistics") or {}
    return _whole((statistics.get("query") or {}).get("totalBytesProcessed", statistics.get("totalBytesProcessed")))


def location_of(job: Mapping[str, Any]) -> str:
    """Where a job runs, if the answer tells."""
    return str((job.get("jobReference") or {}).get("location") or "")


def created_of(job: Mapping[str, Any]) -> int:
    """When a job was created, in milliseconds since 1970; 0 if the answer does not tell."""
    return _whole((job.get("statistics") or {}).get("creationTime")) or 0


def table_of(job: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The table that a statement has left: its destination, or the one that it has made."""
    query = (job.get("statistics") or {}).get("query") or {}
    destination = ((job.get("configuration") or {}).get("query") or {}).get("destinationTable")
    return destination or (query.get("ddlTargetTable") if _makes(query) else None)


def _makes(query: Mapping[str, Any]) -> bool:
    return str(query.get("statementType") or "").startswith("CREATE_")


def progress(query: Mapping[str, Any]) -> str | None:
    """How many of the planned stages are complete: "3 of 7"."""
    plan = query.get("queryPlan") or ()
    complete = sum(1 for stage in plan if stage.get("status") == "COMPLETE")
    return f"{complete} of {len(plan)}" if plan else None


def _warnings(job: Mapping[str, Any]) -> list[str]:
    """The errors that did not end the job: BigQuery lists them beside the one that did, if any."""
    status = job.get("status") or {}
    fatal = status.get("errorResult") or {}
    others = [one for one in status.get("errors") or () if one != fatal]
    return [words_of(one)[:_LONGEST_WARNING] for one in others[:_MOST_WARNINGS]]


def _duration(statistics: Mapping[str, Any]) -> float | None:
    start, end = _whole(statistics.get("startTime")), _whole(statistics.get("endTime"))
    return None if start is None or end is None else (end - start) / 1000


def _whole(text: Any) -> int | None:
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def row_of(row: Any) -> dict[str, Any]:
    """The cells of a row of the SDK by column, intervals as durations."""
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: Any) -> Any:
    match value:
        case dict():
            return {name: _cell(one) for name, one in value.items()}
        case list():
            return [_cell(one) for one in value]
    if type(value).__name__ != "relativedelta":
        return value
    if value.years or value.months:  # as BigQuery writes one: how many days a month has, nobody can tell
        return f"{value.years}-{value.months} {value.days} {value.hours}:{value.minutes}:{value.seconds}"
    return timedelta(
        days=value.days,
        hours=value.hours,
        minutes=value.minutes,
        seconds=value.seconds,
        microseconds=value.microseconds,
    )


def table_uri(table: Mapping[str, Any]) -> str:
    """The address of a table, as Flyte's own plugins write it.

    >>> table_uri({"projectId": "p", "datasetId": "d", "tableId": "t"})
    'bq://p:d.t'
    """
    return f"bq://{table['projectId']}:{table['datasetId']}.{table['tableId']}"
