"""What Snowflake says of a query or a failure, in Airside's words: two tables and their readers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from airside.model import ConversionError, Fail, NotFound, Phase, Retry

log = logging.getLogger("airside.agents.snowflake")


class Unclear(Retry):
    """An answer about a query that tells nothing of it: so Snowflake answers when the session is gone."""


class State(NamedTuple):
    """What a status means; `message` is for the person who waits."""

    phase: Phase
    message: str = ""


STATES: Mapping[str, State] = {
    "QUEUED": State(Phase.QUEUED, "waits for the warehouse"),
    "RESUMING_WAREHOUSE": State(Phase.WAITING_FOR_RESOURCES, "the warehouse is resuming"),
    "QUEUED_REPARING_WAREHOUSE": State(Phase.WAITING_FOR_RESOURCES, "the warehouse is being repaired"),
    "NO_DATA": State(Phase.QUEUED),  # not there yet, or never
    "RUNNING": State(Phase.RUNNING),
    "BLOCKED": State(Phase.RUNNING, "waits for another statement's lock"),
    "RESTARTED": State(Phase.RUNNING, "Snowflake has restarted the query"),
    "ABORTING": State(Phase.RUNNING, "is being cancelled"),
    "SUCCESS": State(Phase.SUCCEEDED),
    "FAILED_WITH_ERROR": State(Phase.FAILED, "failed, and Snowflake does not say why"),
    "FAILED_WITH_INCIDENT": State(Phase.RETRYABLE_FAILED, "failed by a fault of Snowflake's own"),
    "DISCONNECTED": State(Phase.RETRYABLE_FAILED, "the session of the query has ended"),
    "ABORTED": State(Phase.ABORTED, "cancelled"),
}


class Reason(NamedTuple):
    """What an error number of Snowflake means: the code that Flyte shows, and the phase that a query ends in by it."""

    code: str
    phase: Phase = Phase.FAILED


REASONS: Mapping[int, Reason] = {
    604: Reason("Cancelled", Phase.ABORTED),
    606: Reason("NoWarehouse"),
    630: Reason("Timeout"),
    904: Reason("InvalidQuery"),
    1003: Reason("InvalidQuery"),
    2003: Reason("NotFound"),
    2043: Reason("NotFound"),
    3001: Reason("Forbidden"),
    90064: Reason("QuotaExceeded", Phase.RETRYABLE_FAILED),
    90073: Reason("QuotaExceeded", Phase.RETRYABLE_FAILED),
    300002: Reason("SystemError", Phase.RETRYABLE_FAILED),
    300005: Reason("SystemError", Phase.RETRYABLE_FAILED),
    300010: Reason("SystemError", Phase.RETRYABLE_FAILED),
}

_LOGIN_AGAIN = (390104, 390110, 390111, 390112, 390113, 390114, 390115, 390195, 390303, 390318)
_NO_PAGE = 290404  # at the address that is made of the account's name
_LONGEST = 2000  # characters


def state_of(status: str) -> State:
    """What a status means; one that is not known yet is RUNNING, with a warning in the log.

    >>> state_of("BLOCKED").phase.name, state_of("DREAMING").phase.name
    ('RUNNING', 'RUNNING')
    """
    known = STATES.get(status)
    if known is None:
        log.warning("Snowflake names a query's status %r, which is not known here; the query is taken to run", status)
        return State(Phase.RUNNING)
    return known


def reason_of(errno: int) -> Reason:
    """What an error number means.

    >>> reason_of(2003).code, reason_of(100051).code, reason_of(7).code
    ('NotFound', 'InvalidData', 'QueryFailed')
    """
    return REASONS.get(errno) or Reason("InvalidData" if 100_000 <= errno < 101_000 else "QueryFailed")


def errno_of(exc: Exception) -> int:
    """The error number of Snowflake in an error; -1 if there is none."""
    number = getattr(exc, "errno", None)
    return number if isinstance(number, int) else -1


def words_of(exc: Exception) -> str:
    """An error in one line, as Snowflake words it."""
    text = getattr(exc, "raw_msg", "") or getattr(exc, "msg", "") or str(exc) or type(exc).__name__
    return " ".join(str(text).split())[:_LONGEST]


def is_refused(exc: Exception) -> bool:
    """True if logging in again may help."""
    return (
        isinstance(exc, Unclear)
        or errno_of(exc) in _LOGIN_AGAIN
        or type(exc).__name__ in ("ForbiddenError", "TokenExpiredError")
    )


def failure(exc: Exception, *, creating: bool) -> Exception:
    """The error of a call to Snowflake as an agent raises it: `Retry`, `Fail` or `NotFound`.

    Only a create fails for good: a query that is there is asked for again, whatever the answer was.
    """
    if isinstance(exc, Fail | Retry | NotFound | ConversionError):
        return exc if creating or not isinstance(exc, Fail) else Retry(exc.message)
    kind, errno, words = type(exc).__name__, errno_of(exc), words_of(exc)
    text = f"Snowflake answered {errno:06d}: {words}" if errno > 0 else f"Snowflake could not be asked: {kind}: {words}"
    reason = reason_of(errno)
    if creating and errno == _NO_PAGE:
        return Fail(f"{text}: is the account the right one?", code="NotFound")
    if not creating or (is_refused(exc) and kind != "ForbiddenError") or reason.phase is Phase.RETRYABLE_FAILED:
        return Retry(text)
    match kind:
        case "ProgrammingError" | "IntegrityError" | "DataError" | "NotSupportedError":
            return Fail(words, code=reason.code)
        case "DatabaseError" | "ForbiddenError":  # Snowflake has refused the login
            return Fail(text, code="Forbidden")
    return Retry(text)


def facts(query_id: str, warehouse: str, rows: int | None) -> dict[str, Any]:
    """What is known of a query, for `info`."""
    told = {"query_id": query_id, "warehouse": warehouse, "rows": rows}
    return {name: value for name, value in told.items() if value not in ("", None)}
