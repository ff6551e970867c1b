"""Look at a store without changing it: is it one, is it of this version, is it whole."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from airside.engine.database import StoreError, explained, migrations

PATIENCE = 5.0
"""Seconds to read a large store for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a store is like. `version` is 0 for an empty file; with `whole` every page of it was read."""

    version: int
    jobs: int = 0
    whole: bool = True

    @property
    def is_old(self) -> bool:
        """True if the next command that opens it brings it up to date."""
        return self.version < len(migrations())


def inspect(path: str | Path) -> Inspection:
    """Read a store that is there. It is not migrated, and an engine may go on driving it. Blocks.

    After a crash, SQLite renews its own index beside the store, the file `-shm`; nothing else is written.

    Raises `StoreError` for a store of a newer Airside, a damaged one, and a file that is none.
    """
    file = Path(path).absolute()
    live = file.with_name(f"{file.name}-wal").exists()  # else nobody has it open, and it is read as it lies there
    uri = f"{file.as_uri()}?mode=ro{'' if live else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            return _read(connection, str(path))
    except sqlite3.Error as exc:
        raise StoreError(explained(exc, str(path))) from exc


def _read(connection: sqlite3.Connection, path: str) -> Inspection:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not version and not tables:
        return Inspection(version=0)
    if version > len(migrations()):
        raise StoreError(f"{path} was written by a newer Airside; update, or set AIRSIDE_STATE to another folder.")
    if not version or not {"jobs", "submissions", "events"} <= tables:
        raise StoreError(f"The store {path} is no store of Airside's: move it away, and a new store begins empty.")
    (jobs,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
    return Inspection(version=version, jobs=jobs, whole=_is_whole(connection, path))


def _is_whole(connection: sqlite3.Connection, path: str) -> bool:
    """True if all was read and is well, False if there was no time to read all. Raises `StoreError` for damage."""
    end = time.monotonic() + PATIENCE
    connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return False
        raise
    if said != "ok":
        text = " ".join(str(said).split())
        raise StoreError(
            f"The store {path} is damaged: move it away, and a new store begins empty; `sqlite3 .recover` may save "
            f"it ({text})."
        )
    return True
