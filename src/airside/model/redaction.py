"""Secret values are hidden in everything that leaves the process.

The set of known secrets is one per process on purpose: a value read by one agent must not show in the
log line of another.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

MASK = "***"
_MIN_LENGTH = 4  # shorter values would mask ordinary words
_MAX_KNOWN = 4096
_lock = threading.Lock()
_known: OrderedDict[str, None] = OrderedDict()
_longest_first: tuple[str, ...] = ()
_stale = False


def hide(value: str) -> None:
    """From now on, replace `value` by `***` in logs, messages and error details.

    Values under four characters are not hidden: they would mask ordinary words. The latest 4,096 values
    are remembered.
    """
    global _stale  # noqa: PLW0603 - one set of secrets per process is the point of this module
    if len(value) < _MIN_LENGTH:
        return
    with _lock:
        if value in _known:
            _known.move_to_end(value)
            return
        _known[value] = None
        while len(_known) > _MAX_KNOWN:
            _known.popitem(last=False)
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


def _values() -> tuple[str, ...]:
    """The known secrets; the longest first, so that one which contains another is hidden whole."""
    global _longest_first, _stale  # noqa: PLW0603 - see `hide`
    if _stale:
        with _lock:
            _longest_first = tuple(sorted(_known, key=len, reverse=True))
            _stale = False
    return _longest_first
