"""One table: what went wrong ↔ gRPC status ↔ `agent_error` code ↔ phase.

| error | status | code | phase of a job that failed so |
| --- | --- | --- | --- |
| `NotFound` | NOT_FOUND | JobNotFound | RETRYABLE_FAILED |
| `Retry` | UNAVAILABLE | Retryable | RETRYABLE_FAILED |
| `Fail` | by its code, else FAILED_PRECONDITION | its own | FAILED |
| `ConversionError` | INVALID_ARGUMENT | ConversionError | FAILED |
| `UsageError` | FAILED_PRECONDITION | UsageError | FAILED |
| `NotImplementedError` | UNIMPLEMENTED | Unimplemented | FAILED |
| `TimeoutError` | DEADLINE_EXCEEDED | Timeout | RETRYABLE_FAILED |
| cancelled | CANCELLED | Cancelled | RETRYABLE_FAILED |
| anything else | INTERNAL | UnexpectedError | RETRYABLE_FAILED |

Flyte's engines treat all statuses alike; the codes are for people, dashboards and our own clients.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from grpc import StatusCode

from airside.model import (
    AgentError,
    AirsideError,
    ConversionError,
    Fail,
    NotFound,
    Phase,
    Resource,
    Retry,
    UsageError,
)
from airside.model.redaction import redact
from airside.wire import limits


@dataclass(frozen=True, slots=True)
class Row:
    """What one kind of error becomes."""

    error: type[BaseException]
    status: StatusCode
    code: str
    phase: Phase


TABLE: tuple[Row, ...] = (  # the first row whose error matches holds
    Row(NotFound, StatusCode.NOT_FOUND, NotFound.code, Phase.RETRYABLE_FAILED),
    Row(Retry, StatusCode.UNAVAILABLE, Retry.code, Phase.RETRYABLE_FAILED),
    Row(Fail, StatusCode.FAILED_PRECONDITION, "UserError", Phase.FAILED),
    Row(ConversionError, StatusCode.INVALID_ARGUMENT, "ConversionError", Phase.FAILED),
    Row(UsageError, StatusCode.FAILED_PRECONDITION, "UsageError", Phase.FAILED),
    Row(NotImplementedError, StatusCode.UNIMPLEMENTED, "Unimplemented", Phase.FAILED),
    Row(TimeoutError, StatusCode.DEADLINE_EXCEEDED, "Timeout", Phase.RETRYABLE_FAILED),
    Row(asyncio.CancelledError, StatusCode.CANCELLED, "Cancelled", Phase.RETRYABLE_FAILED),
    Row(BaseException, StatusCode.INTERNAL, "UnexpectedError", Phase.RETRYABLE_FAILED),
)

FAILURES: dict[StatusCode, str] = {
    StatusCode.INVALID_ARGUMENT: "InvalidArgument",
    StatusCode.FAILED_PRECONDITION: "FailedPrecondition",
    StatusCode.OUT_OF_RANGE: "OutOfRange",
    StatusCode.UNIMPLEMENTED: "Unimplemented",
    StatusCode.ALREADY_EXISTS: "AlreadyExists",
    StatusCode.DATA_LOSS: "DataLoss",
}
"""The statuses that repeating a call cannot mend, with the code of the `Fail` that each becomes and comes from.

All others may pass, also UNAUTHENTICATED and PERMISSION_DENIED: a token that is being rotated must not end a job.
"""

MESSAGE_TOO_LARGE = "MessageTooLarge"

_STATUS_OF_CODE = {code: status for status, code in FAILURES.items()}
_TRACEBACK = "Traceback (most recent call last)"


def row_for(error: BaseException) -> Row:
    """The row of the table that an error falls under."""
    return next(row for row in TABLE if isinstance(error, row.error))


def status_for(error: BaseException) -> tuple[StatusCode, str]:
    """The gRPC status and details that an error goes out as.

    >>> status_for(Fail("no such table: trips"))
    (<StatusCode.FAILED_PRECONDITION: (9, 'failed precondition')>, 'no such table: trips')
    """
    status = row_for(error).status
    if isinstance(error, Fail):
        status = _STATUS_OF_CODE.get(error.code, status)
    return status, sentence(error)


def code_for(error: BaseException) -> str:
    """The code of an error: its own, or the table's.

    >>> code_for(Fail("no such table: trips", code="TableNotFound"))
    'TableNotFound'
    """
    return error.code if isinstance(error, Fail) else row_for(error).code


def failure(error: BaseException, text: str = "") -> Resource:
    """The terminal resource of a job that an error ended. `text` is what to say of it, if not its own words.

    >>> failure(Fail("no such table: trips", code="TableNotFound"))
    Resource(phase=<Phase.FAILED: 5>, message='no such table: trips', outputs=None, links=(), info=None, \
code='TableNotFound', poll_after=None)
    """
    return Resource(row_for(error).phase, message=text or sentence(error), code=code_for(error))


def error_from_status(status: StatusCode, details: str | None) -> AgentError:
    """What a call that ended with this status means to the caller: `NotFound`, `Fail` or `Retry`.

    >>> error_from_status(StatusCode.INTERNAL, "boom")
    Retry('boom')
    """
    text = one_line(details or "") or f"The agent service answered {status.name} without details."
    if status is StatusCode.NOT_FOUND:
        return NotFound(text)
    if status in FAILURES:
        return Fail(text, code=FAILURES[status])
    if status is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return Fail(text, code=MESSAGE_TOO_LARGE)  # gRPC's own limit, which the same message meets each time
    return Retry(text)


def sentence(error: BaseException) -> str:
    """What an error says, on one line, without secrets and never empty.

    >>> sentence(KeyError("rows"))
    "KeyError: 'rows'"
    """
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an author's own exception may not even be printable
        text = ""
    if isinstance(error, AirsideError):
        return one_line(text) or row_for(error).code
    kind = type(error).__name__
    return one_line(f"{kind}: {text}") if text else kind


def one_line(text: str, limit: int = limits.DETAILS) -> str:
    """`text` on one line of at most `limit` bytes, without secrets; of a traceback only its last line stays.

    >>> one_line('''boom: Traceback (most recent call last):
    ...   File "agent.py", line 3, in create
    ... ValueError: no such table''')
    'boom: ValueError: no such table'
    """
    text = redact(text)  # before anything is taken out of it: a secret may have several lines
    head, found, rest = text.partition(_TRACEBACK)
    if found:
        last = next((line for line in reversed(rest.splitlines()) if line.strip(" :")), "")
        text = f"{head} {last}"
    return limits.shorten(" ".join(text.split()), limit)
