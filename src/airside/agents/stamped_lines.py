"""Log lines that begin with their time, as Kubernetes and container engines write them: the time is the cursor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from airside.model import Fail, LogLine

_LONGEST = 64 * 1024  # characters of a line; the rest of it is left out


def lines_after(chunks: Iterable[bytes], after: str) -> Iterator[LogLine]:
    """The lines that come after the cursor `after`; all of them if it is empty.

    Several lines may have one time, since some engines write whole seconds: a cursor also counts them.

    >>> log = [b"2024-01-02T03:04:05Z one\\n2024-01-02T03:04:05Z tw", b"o\\n2024-01-02T03:04:06Z three\\n"]
    >>> [(line.message, line.cursor) for line in lines_after(log, "2024-01-02T03:04:05Z#1")]
    [('two', '2024-01-02T03:04:05Z#2'), ('three', '2024-01-02T03:04:06Z#1')]
    """
    last, seen = _read(after) if after else ((("", ""), 0))
    current, count = ("", ""), 0
    for raw in _split(chunks):
        stamp, _, text = raw.decode("utf-8", errors="replace").partition(" ")
        order = _order(stamp)
        current, count = order, count + 1 if order == current else 1
        if order > last or (order == last and count > seen):
            cursor = f"{stamp}#{count}"
            yield LogLine(text[:_LONGEST], timestamp=instant_of(cursor), originator="user", cursor=cursor)


def instant_of(cursor: str) -> datetime:
    """The time of a cursor, to the microsecond. `Fail` for one that is none."""
    (seconds, fraction), _ = _read(cursor)
    try:
        return datetime.fromisoformat(f"{seconds}.{fraction[:6]}").replace(tzinfo=UTC)
    except ValueError:
        raise Fail(f"{cursor!r} is no place in this log; take the token of the page before.", code="BadToken") from None


def _read(cursor: str) -> tuple[tuple[str, str], int]:
    stamp, _, count = cursor.partition("#")
    return _order(stamp), int(count) if count.isdigit() else 0


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)
    if rest:
        yield rest


def _order(stamp: str) -> tuple[str, str]:
    """Times in an order: zeros at the end of nanoseconds are left out, and an offset of zero is written in two ways."""
    seconds, _, fraction = stamp.removesuffix("Z").removesuffix("+00:00").partition(".")
    return seconds, fraction.ljust(9, "0")
