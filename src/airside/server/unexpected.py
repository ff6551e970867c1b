"""Errors as users see them: one sentence with a code, and an id under which the log has the rest."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets

from grpc import StatusCode

from airside.wire import limits
from airside.wire.status import code_for, row_for, sentence

log = logging.getLogger("airside.server")

_ID = "airside_id"  # on an exception that has been told under an id
_DIGITS = 8
_NAMED = re.compile(r"\(\w+, id [0-9a-f]{8}\)\W*$")  # another service has told it under an id of its own


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
        correlation = key[:_DIGITS] or known
        if correlation and not _NAMED.search(text):
            _mark(error, correlation)
            return _named(text, code or code_for(error), correlation)
        return text
    correlation = known or key[:_DIGITS] or secrets.token_hex(_DIGITS // 2)
    if not known:
        _mark(error, correlation)
        if text not in told:
            extra = {"correlation_id": correlation, "agent": agent, "key": key}
            level = logging.WARNING if isinstance(error, OSError) else logging.ERROR  # a network that fails is weather
            log.log(level, "unexpected error (id %s)", correlation, exc_info=error, extra=extra)
    return _named(text, row_for(error).code, correlation)


def _mark(error: BaseException, correlation: str) -> None:
    with contextlib.suppress(Exception):  # an author's own exception may refuse it
        setattr(error, _ID, correlation)


def _named(text: str, code: str, correlation: str) -> str:
    ending = f" ({code}, id {correlation})"
    return limits.shorten(text, limits.DETAILS - len(ending)) + ending
