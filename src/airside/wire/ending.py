"""How the sentence about a failure ends: with its code, and with the id to look for in the log."""

from __future__ import annotations

import re

from airside.wire import limits

DIGITS = 8
"""How many of the digits of the task attempt's key are the id."""
UNTOLD = "The job failed"
"""What a failure says that has no words."""

_ENDING = re.compile(r" ?\((?:[^()]+, )?(id [0-9a-f]{8})\)\W*$")


def is_ended(text: str) -> bool:
    """True if a sentence has its id already: another service may have told it under one of its own."""
    return _ENDING.search(text) is not None


def ended(text: str, code: str, correlation: str, limit: int = limits.DETAILS) -> str:
    """The sentence with its code and its id, in at most `limit` bytes. One that has an id keeps it, and gets its code.

    >>> ended("no such table: trips", "TableNotFound", "1a2b3c4d5e6f")
    'no such table: trips (TableNotFound, id 1a2b3c4d)'
    >>> ended("no such table: trips (id 99999999)", "TableNotFound", "1a2b3c4d5e6f")
    'no such table: trips (TableNotFound, id 99999999)'
    """
    found = _ENDING.search(text)
    words, named = (text[: found.start()], found[1]) if found else (text or UNTOLD, f"id {correlation[:DIGITS]}")
    code = limits.shorten(code, limits.CODE)
    ending = f" ({code}, {named})" if code else f" ({named})"
    return limits.shorten(words, limit - len(ending.encode())) + ending


def without_code(text: str, code: str) -> str:
    """The sentence without its code, for a reader who is shown the code beside it.

    >>> without_code("no such table: trips (TableNotFound, id 1a2b3c4d)", "RetriesExhausted|TableNotFound")
    'no such table: trips (id 1a2b3c4d)'
    """
    found, named = _ENDING.search(text), code.rpartition("|")[2]
    if found is None or not named or not found[0].strip().startswith(f"({named}, "):
        return text
    return f"{text[: found.start()]} ({found[1]})"
