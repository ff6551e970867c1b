"""Errors that nobody foresaw: one sentence for the user, and the traceback in the log under the sentence's id."""

from __future__ import annotations

import contextlib
import logging
import secrets

from grpc import StatusCode

from airside.wire.status import row_for, sentence

log = logging.getLogger("airside.server")

_ID = "airside_id"  # on an exception that is in the log already


def is_unexpected(error: BaseException) -> bool:
    """True if neither the agent nor the service meant the error: a mistake somewhere."""
    return row_for(error).status is StatusCode.INTERNAL


def explained(error: BaseException, *, agent: str = "", key: str = "", told: str = "") -> str:
    """What an error says. An unexpected one is logged with its traceback, once, and its code and id are added.

    The id is the beginning of `key`, the task attempt's, if there is one. What `told` says already is not logged again.

    >>> explained(TimeoutError("no answer"))
    'TimeoutError: no answer'
    """
    text = sentence(error)
    if not is_unexpected(error):
        return text
    known = getattr(error, _ID, "")
    correlation = known or key[:8] or secrets.token_hex(4)
    if not known:
        with contextlib.suppress(Exception):  # an author's own exception may refuse it
            setattr(error, _ID, correlation)
        if text not in told:
            extra = {"correlation_id": correlation, "agent": agent, "key": key}
            level = logging.WARNING if isinstance(error, OSError) else logging.ERROR  # a network that fails is weather
            log.log(level, "unexpected error (id %s)", correlation, exc_info=error, extra=extra)
    return f"{text} ({row_for(error).code}, id {correlation})"
