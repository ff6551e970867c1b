"""One process at a time drives the jobs of a store: a lock beside its file, with the owner's name in it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import IO, Any, Self

from airside.engine.database import MEMORY, StoreError


class Ownership:
    """The lock of a store. The system lets go of it when the process ends, however it ends.

    >>> with Ownership(":memory:"):
    ...     pass
    """

    def __init__(self, store: str) -> None:
        self.path = None if store == MEMORY else Path(f"{store}.lock")
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> None:
        """Take the lock. Raises `StoreError` that names its owner if another process has it. Blocks briefly."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = self.path.open("a+")
        except OSError as exc:
            raise StoreError(f"The lock {self.path} cannot be made: {exc.strerror}; set AIRSIDE_STATE.") from exc
        if not _locked(file):
            file.close()
            raise StoreError(f"Another engine drives the jobs of this store: {described(owner(self.path))}.")
        try:
            file.truncate(0)
            os.write(file.fileno(), _own_name())
        except OSError as exc:
            file.close()
            raise StoreError(
                f"The lock {self.path} cannot be written: {exc.strerror}; make room, then start again."
            ) from exc
        self._file = file

    def release(self) -> None:
        """Let go of the lock."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


def _own_name() -> bytes:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}).encode()


def _locked(file: IO[str]) -> bool:
    """Take the lock; whoever only looks whether it is taken has it for a moment, too."""
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def owner_of(store: str) -> dict[str, Any] | None:
    """The process that drives the jobs of a store (pid, host, since), or None if there is none."""
    path = Path(f"{store}.lock")
    try:
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return owner(path)
    except OSError:
        return None
    return None


def owner(path: Path) -> dict[str, Any]:
    """What the owner of a lock wrote into it; empty if it has only just taken it."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def described(who: dict[str, Any]) -> str:
    """An owner for a person.

    >>> described({"pid": 7, "host": "laptop", "since": 0})
    'process 7 on laptop, since 1970-01-01 00:00:00 UTC'
    """
    if not who:
        return "a process that has only just begun"
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(who.get("since", 0)))
    return f"process {who.get('pid')} on {who.get('host')}, since {since}"
