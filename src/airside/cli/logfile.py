"""A log file of bounded size, for an engine that nobody watches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from airside.model import UsageError

LIMIT = 10 * 2**20
"""Bytes after which a new file begins; the one before is kept as FILE.1, those before it are not."""


class LogFile:
    """A stream into a file that is never much larger than `limit`; with the one before it, twice that."""

    def __init__(self, path: str | Path, limit: int = LIMIT) -> None:
        self._path = Path(path)
        self._limit = limit
        self._file = self._opened()

    def write(self, text: str) -> int:
        """Append, in a new file if this one is full."""
        if os.fstat(self._file.fileno()).st_size >= self._limit:  # others may write into it
            self._begin_anew()
        return self._file.write(text)

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _begin_anew(self) -> None:
        """Put the file aside. What the process prints into it goes on in the new one."""
        full = os.fstat(self._file.fileno())
        self._file.close()
        self._path.replace(f"{self._path}.1")
        self._file = self._opened()
        for number in (1, 2):
            if os.path.samestat(os.fstat(number), full):
                os.dup2(self._file.fileno(), number)

    def _opened(self) -> IO[str]:
        try:
            return self._path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as exc:
            raise UsageError(f"Log file {self._path} cannot be written: {exc.strerror}.") from exc
