"""The log of a Spark driver, as it grows: its stdout and its stderr, a part of each in turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from airside.agents.spark_submit_cluster import Driver, Master, Piece
from airside.agents.spark_submit_states import STATES
from airside.model import Fail, LogLine, Phase

_CHUNK = 64 * 1024  # bytes of one answer, and the longest line
_PAUSE = 1.0  # seconds between two looks at a log that did not grow
_STREAMS = (("stdout", "user"), ("stderr", "system"))


async def stream(master: Master, driver_id: str, *, after: str, limit: int) -> AsyncGenerator[LogLine, None]:
    """The lines after the cursor, two byte offsets. Ends when the driver has."""
    places = _read(after)
    left = limit
    while left > 0:
        driver = await master.status(driver_id)
        is_over = STATES.get(driver.state, Phase.RUNNING).is_terminal
        grew = False
        for number, (name, originator) in enumerate(_STREAMS):
            for text, size in await _lines(master, driver, name, places[number], is_over=is_over):
                grew = True
                places[number] += size
                yield LogLine(text, originator=originator, cursor=f"{places[0]}:{places[1]}")
                left -= 1
                if left <= 0:
                    return
        if grew:
            continue
        if is_over:
            return
        await asyncio.sleep(_PAUSE)


async def _lines(master: Master, driver: Driver, name: str, begin: int, *, is_over: bool) -> list[tuple[str, int]]:
    """Whole lines from a place on, with their sizes in bytes; what has no end of line yet is left for later."""
    piece = await master.log(driver, name, begin=begin, length=_CHUNK)
    if piece is None or piece.end <= begin:
        return []
    return _split(piece, is_whole=is_over and piece.end >= piece.total)


def _split(piece: Piece, *, is_whole: bool) -> list[tuple[str, int]]:
    """
    >>> _split(Piece("one\\ntw", 0, 6, 9), is_whole=False)
    [('one', 4)]
    """
    size = piece.end - piece.begin
    *lines, rest = piece.text.split("\n")
    found = [(line.rstrip("\r"), len(line.encode()) + 1) for line in lines]
    if (rest and is_whole) or (not lines and size >= _CHUNK):
        found.append((rest, size - sum(length for _, length in found)))
    return found


def _read(cursor: str) -> list[int]:
    first, colon, second = cursor.partition(":")
    if not cursor:
        return [0, 0]
    if not (colon and first.isdecimal() and second.isdecimal()):
        raise Fail(f"{cursor!r} is no place in this log; take the token of the page before.", code="BadToken")
    return [int(first), int(second)]
