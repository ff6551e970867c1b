"""Errors as users see them: one sentence with a code, and an id under which the log has the rest."""

from __future__ import annotations

import contextlib
import logging
import secrets

from grpc import StatusCode

from airside.wire.ending import DIGITS, ended, is_ended
from airside.wire.status import code_for, row_for, sentence

log = logging.getLogger("airside.server")

_ID = "airside_id"  # on an exception that has been told under an id


def is_unexpected(error: BaseException) -> bool:
    """True if neither the agent nor the service meant the error: a mistake somewhere."""
    return row_for(error).status is StatusCode.INTERNAL


def explained(error: BaseException, *, agent: str = "", key: str = "", told: str = "", code: str = "") -> str:
    """What an error says, with its code and the id to look for in the log: the beginning of `key`, the task attempt's.

    An unexpected error is logged with its traceback, once; what `told` says already is not logged again. One that was
    expected has no id without an attempt. `code` is its code, if not its own.

    >>> from airside import Retry
    >>> explained(Retry("no answer"), key="1a2b3c4d5e6f")
    'no answer (Retryable, id 1a2b3c4d)'
    >>> explained(Retry("no answer"))
    'no answer'
    """
    text, known = sentence(error), getattr(error, _ID, "")
    if not is_unexpected(error):
        correlation = key[:DIGITS] or known
        if not correlation:
            return text
        if not is_ended(text):
            _mark(error, correlation)
        return ended(text, code or code_for(error), correlation)
    correlation = known or key[:DIGITS] or secrets.token_hex(DIGITS // 2)
    if not known:
        _mark(error, correlation)
        if text not in told:
            extra = {"correlation_id": correlation, "agent": agent, "key": key}
            level = logging.WARNING if isinstance(error, OSError) else logging.ERROR  # a network that fails is weather
            log.log(level, "unexpected error (id %s)", correlation, exc_info=error, extra=extra)
    return ended(text, row_for(error).code, correlation)


def _mark(error: BaseException, correlation: str) -> None:
    with contextlib.suppress(Exception):  # an author's own exception may refuse it
        setattr(error, _ID, correlation)
