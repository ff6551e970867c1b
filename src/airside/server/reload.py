"""Files that may change while the service runs: looked at once a second, on a thread, never within a call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from airside.model import UsageError

log = logging.getLogger("airside.server")

LOOK_AGAIN = 1.0
"""Seconds between two looks whether a file has changed."""

Look = Callable[[], None]
Stamp = tuple[int, int, int]


class WatchedFiles:
    """The contents of some files, as they were when last looked at.

    Raises `UsageError`, naming the file, if one cannot be read. Every method blocks.
    """

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self._stamps, self.contents = _read(paths)

    def renew(self) -> bool:
        """Read the files again if one has changed; True if the contents are others than before.

        Raises `UsageError` as above; then the contents stay as they were.
        """
        if _stamps(self.paths) == self._stamps:
            return False
        stamps, contents = _read(self.paths)
        changed = contents != self.contents
        self._stamps, self.contents = stamps, contents
        return changed


async def keep_looking(looks: Sequence[Look]) -> None:
    """Call each of `looks` on a thread, again and again, until cancelled. One that fails is logged."""
    while True:
        await asyncio.sleep(LOOK_AGAIN)
        for look in looks:
            try:
                await asyncio.to_thread(look)
            except Exception:  # the others must be looked at too
                log.exception("looking for changes failed")


def _read(paths: Sequence[Path]) -> tuple[tuple[Stamp, ...], tuple[bytes, ...]]:
    stamps = _stamps(paths)  # first: a change while reading is then seen at the next look
    try:
        return stamps, tuple(path.read_bytes() for path in paths)
    except OSError as exc:
        raise _unreadable(exc) from None


def _stamps(paths: Sequence[Path]) -> tuple[Stamp, ...]:
    try:
        states = [path.stat() for path in paths]
    except OSError as exc:
        raise _unreadable(exc) from None
    return tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in states)


def _unreadable(exc: OSError) -> UsageError:
    return UsageError(f"{exc.filename} cannot be read: {exc.strerror}.")
