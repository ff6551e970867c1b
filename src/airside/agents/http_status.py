"""What the status of a vendor's HTTP answer means for whoever called: try again, give up, or not there."""

from __future__ import annotations

from collections.abc import Mapping

from airside.agents.http_answer import HttpAnswer
from airside.model import AgentError, Fail, NotFound, Retry

_PASSING = (401, 408, 409, 425, 429)  # and every 5xx; a key may be in renewal
_CODES = {
    402: "QuotaExceeded",
    403: "Forbidden",
    404: "ResourceNotFound",
    413: "RequestTooLarge",
}


def error_of_status(status: int, text: str, headers: Mapping[str, str], *, polling: bool = False) -> AgentError:
    """The error for an answer with this status. `headers` are by lower-case name.

    While polling, a job that is not there is `NotFound`, and everything else may pass.

    >>> type(error_of_status(503, "busy", {"retry-after": "7"})).__name__
    'Retry'
    >>> error_of_status(403, "not yours", {}).code, error_of_status(400, "no model", {}).code
    ('Forbidden', 'InvalidRequest')
    """
    if polling and status == 404:
        return NotFound(text)
    if polling or status in _PASSING or status >= 500:
        return Retry(text, after=HttpAnswer(status, headers, None).retry_after)
    return Fail(text, code=_CODES.get(status, "InvalidRequest"))
