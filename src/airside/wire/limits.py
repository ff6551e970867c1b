"""How much of everything may cross the wire. Sizes are in bytes unless the name says otherwise."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

REQUEST = 16 * MIB
"""A request to the service, and any message that our own clients receive."""

OUTPUTS = 3 * MIB + 512 * KIB
"""Outputs inside an answer. Flyte's engines read at most 4 MiB; larger outputs go to `outputs.pb`."""

FILE = 16 * MIB
"""A file read into memory: `outputs.pb`, `error.pb`."""

OFFLOADED = 64 * MIB
"""The file of an offloaded literal. Flyte offloads what has 10 MiB and more."""

MESSAGE = 16 * KIB
"""The message of a resource. Flyte keeps it in etcd."""

DETAILS = 2 * KIB
"""The details of a gRPC error. They travel percent-encoded in trailers, which many peers cap at 8 KiB."""

INFO = 64 * KIB
"""The `info` of a resource, as JSON shown by Flyte's console."""

LINKS_COUNT = 64
"""Log links in one answer."""

LINK = 4 * KIB
"""The address of one link, and its name."""

CODE = 128
"""The error code of a failure."""

LOG_LINE = 64 * KIB
"""One line of a job's log."""

MARK = " … "
"""Stands where text was left out."""


def shorten(text: str, limit: int) -> str:
    """`text`, or its beginning and end with a mark between them so that it fits into `limit` bytes of UTF-8.

    The end is kept because the end of a traceback or of a log says most. Lone surrogates, which UTF-8 cannot
    carry, become question marks.

    >>> shorten("a short message", 100)
    'a short message'
    >>> shorten("0123456789" * 10, 25)
    '0123456789 … 0123456789'
    """
    if text.isascii() and len(text) <= limit:
        return text
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    room = max(0, limit - len(MARK.encode()))
    tail = room // 2
    head = data[: room - tail].decode("utf-8", "ignore")
    return head + MARK + data[len(data) - tail :].decode("utf-8", "ignore")
