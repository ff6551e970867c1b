"""Secret values are hidden in everything that leaves the process.

The set of known secrets is one per process on purpose: a value read by one agent must not show in the
log line of another.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

MASK = "***"
_MIN_LENGTH = 4  # shorter values would mask ordinary words
_MIN_LINE = 16  # one line of a longer secret, such as a key in PEM form
_MAX_LENGTH = 64 * 1024  # far above any message that leaves
_MAX_KNOWN = 4096
_MAX_PASSING = 1024
_lock = threading.Lock()
_known: OrderedDict[str, None] = OrderedDict()
_passing: OrderedDict[str, None] = OrderedDict()
_longest_first: tuple[str, ...] = ()
_stale = False


def hide(value: str, *, passing: bool = False) -> None:
    """From now on, replace `value` by `***` in logs, messages and error details.

    Also as it looks in JSON, in a URL, in Python's own notation, and line by line. Values under four characters are
    not hidden: they would mask ordinary words. The latest 4,096 values are remembered; of those that came with a call
    (`passing`) the latest 1,024, so that no caller can make this process forget its own.
    """
    global _stale  # noqa: PLW0603 - one set of secrets per process is the point of this module
    if not _MIN_LENGTH <= len(value) <= _MAX_LENGTH:
        return
    values, limit = (_passing, _MAX_PASSING) if passing else (_known, _MAX_KNOWN)
    with _lock:
        if value in values:
            values.move_to_end(value)
            return
        values[value] = None
        while len(values) > limit:
            values.popitem(last=False)
        _stale = True


def redact(text: str) -> str:
    """`text` with every known secret replaced by `***`.

    >>> hide("hunter2-token")
    >>> redact("Authorization: Bearer hunter2-token")
    'Authorization: Bearer ***'
    """
    for value in _values():  # a search per value: one regular expression of them all is a hundred times slower
        if value in text:
            text = text.replace(value, MASK)
    return text


def redact_all(value: Any) -> Any:
    """`redact` for every text in mappings, lists and tuples, at every level; tuples become lists.

    >>> hide("hunter2-token")
    >>> redact_all({"tried": ["hunter2-token", 3]})
    {'tried': ['***', 3]}
    """
    match value:
        case str():
            return redact(value)
        case Mapping():
            return {redact_all(key): redact_all(one) for key, one in value.items()}
        case list() | tuple():
            return [redact_all(one) for one in value]
    return value


def _values() -> tuple[str, ...]:
    """The known secrets as they may look; the longest first, so that one which contains another is hidden whole."""
    global _longest_first, _stale  # noqa: PLW0603 - see `hide`
    if _stale:
        with _lock:
            looks = {look for value in (*_known, *_passing) for look in _looks(value)}
            _longest_first = tuple(sorted(looks, key=len, reverse=True))
            _stale = False
    return _longest_first


def _looks(value: str) -> set[str]:
    """How a value may be written in a text."""
    if value.isascii() and value.isalnum():  # the same everywhere, and most are
        return {value}
    lines = [line.strip() for line in value.splitlines()]
    parts = [line for line in lines if len(line) >= _MIN_LINE and not line.startswith("-----")] if lines[1:] else []
    quoted = (quote(value, safe=safe, errors="replace") for safe in ("", "/"))
    looks = {value, value.strip(), " ".join(value.split()), *quoted, *parts}
    for _ in range(2):  # the text of an error is often one notation within another
        for plain in tuple(looks):
            written = repr(plain)[1:-1]
            looks |= {json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1], written}
            looks.add(written.replace("\\'", "'").replace("'", "\\'"))  # repr escapes it only beside the other quote
    return {look for look in looks if len(look) >= _MIN_LENGTH}
