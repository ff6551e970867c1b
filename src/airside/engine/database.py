"""The file that the engine's jobs live in: SQLite, opened, migrated, read and written. Everything here blocks.

One process at a time drives the jobs in it (`ownership.py`); any process may read it, submit jobs and ask for cancels.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from math import inf
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

from airside.engine.copier import copier
from airside.engine.job import Job, Stage, Verdict
from airside.engine.rows import Rows
from airside.model import LogLink, Phase, TaskType, UsageError

MEMORY = ":memory:"
FILE_NAME = "engine.db"
OLDEST_SQLITE = (3, 33)
"""The first with `UPDATE ... FROM`."""
BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process that is writing."""


class StoreError(UsageError):
    """The store cannot be read or written; nothing that was acknowledged is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A job with what its submitter said of it. `source` is what finds its agent again (JSON values).

    An `attended` job is driven by the command that submitted it, as long as that lives (`attendance.py`). Jobs of one
    `cache_key` have the same outputs; with `reads_cache` those of an earlier one will do.
    """

    job: Job
    seq: int = 0
    task: str
    task_type: TaskType
    root: str
    source: Mapping[str, Any]
    attended: bool = False
    cache_key: str = ""
    reads_cache: bool = True


with_job = copier(Record)
"""The record with another `job`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One transition of a job, with its time. `note` is about the engine's doings, `message` about the job."""

    job: str
    at: float
    attempt: int
    stage: Stage
    phase: Phase
    message: str = ""
    note: str = ""


@cache
def queries() -> Mapping[str, str]:
    """The statements of `queries.sql` by name.

    >>> queries()["job"]
    'SELECT * FROM jobs WHERE id = :id;'
    """
    parts = re.split(r"^-- name: (\w+)\n", _text("queries.sql"), flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def migrations() -> Sequence[str]:
    """The scripts that make a store, oldest first; a store's version is how many of them it has seen."""
    return tuple(_text(f"schema{part}.sql") for part in ("", "_2", "_3"))


class Database:
    """One connection. Use it from one thread at a time, and close it.

    >>> with Database(MEMORY) as database:
    ...     database.latest()
    []
    """

    def __init__(self, path: str | Path, *, scripts: Sequence[str] | None = None) -> None:
        self.path = str(path)
        self._rows = Rows({name: queries()[name] for name in _WRITES})
        with self._errors():
            if self.path != MEMORY:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                if Path(self.path).is_dir():
                    raise StoreError(f"The store {self.path} is a folder, and must be a file: move it away.")
                Path(self.path).touch(mode=0o600)  # inputs may be private
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
        try:
            with self._errors():
                self._prepare(migrations() if scripts is None else scripts)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # -- writing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written within is kept, or nothing is. It is on the disk when this ends."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._rows.write(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                self._rows.clear()
                if self._connection.in_transaction:  # a full disk has rolled it back already
                    self._connection.execute("ROLLBACK")
                raise

    def add(self, record: Record, template: bytes, inputs: bytes) -> None:
        """Add a new job. Within a `transaction`."""
        job, kind = record.job, record.task_type
        said = (record.task, kind.name, kind.version, record.root, json.dumps(record.source))
        more = (record.attended, record.cache_key, record.reads_cache)
        times = (_due(job), job.queued_at, job.retries, job.timeout, job.active_timeout)
        self._rows.put("insert_jobs", None, (job.id, *said, *more, job.stage.value, *times, job.phase.value))
        self._rows.put("insert_submissions", None, (job.id, template, inputs))
        self.tell(Event(job=job.id, at=job.queued_at, attempt=0, stage=job.stage, phase=job.phase, note="submitted"))

    def save(self, job: Job) -> None:
        """Keep a job as it is now. Within a `transaction`."""
        self._rows.put("update_jobs", job.id, _row_of(job))

    def keep_outputs(self, job_id: str, data: bytes) -> None:
        """Keep the outputs of a job that succeeded. Within a `transaction`."""
        self._rows.put("insert_outputs", job_id, (job_id, data))

    def tell(self, event: Event) -> None:
        """Keep an event. Within a `transaction`."""
        where = (event.job, event.at, event.attempt, event.stage.value, event.phase.value)
        self._rows.put("insert_events", None, (*where, event.message, event.note))

    def ask(self, job_id: str, kind: str, at: float) -> None:
        """Ask the engine for something. Within a `transaction`."""
        self._execute("insert_request", {"job": job_id, "kind": kind, "at": at})

    def answered(self, seq: int) -> None:
        """Forget a request. Within a `transaction`."""
        self._execute("delete_request", {"seq": seq})

    def forget(self, job_id: str) -> None:
        """Delete a finished job and its history. Within a `transaction`."""
        self._execute("delete_job", {"id": job_id})

    # -- reading ---------------------------------------------------------------------------------------------------

    def unfinished(self, after: int = 0) -> list[Record]:
        """The jobs that are not over and were submitted after that one, oldest first."""
        return [_record(row) for row in self._all("unfinished_jobs", {"after": after})]

    def newest(self) -> int:
        """The number of the newest job, 0 if there is none."""
        (row,) = self._all("newest_job", {})
        return row["seq"] or 0

    def latest(
        self,
        *,
        limit: int = 20,
        unfinished: bool = False,
        phase: Phase | None = None,
        task: str | None = None,
        after: float = 0.0,
    ) -> list[Record]:
        """The newest jobs first, of those submitted since `after`; `task` is a task's name or its type."""
        wanted = None if phase is None else phase.value
        given = {"limit": limit, "unfinished": int(unfinished), "phase": wanted, "task": task, "after": after}
        return [_record(row) for row in self._all("latest_jobs", given)]

    def find(self, job_id: str) -> Record:
        """The job of this id, or of the only id that begins so. Raises `UsageError` if there is none, or several."""
        rows = self._all("job", {"id": job_id})
        if not rows and re.fullmatch(r"[0-9a-f]+", job_id):
            rows = self._all("jobs_like", {"prefix": job_id})
        if not rows:
            raise UsageError(f"There is no job {job_id!r} in {self.path}; see `airside jobs list`.")
        if len(rows) > 1:
            raise UsageError(f"{job_id!r} may be {' or '.join(row['id'] for row in rows)}; write more of the id.")
        return _record(rows[0])

    def events(self, job_id: str) -> list[Event]:
        """The history of a job, oldest first."""
        return [
            Event(
                job=row["job"],
                at=row["at"],
                attempt=row["attempt"],
                stage=Stage(row["stage"]),
                phase=Phase(row["phase"]),
                message=row["message"],
                note=row["note"],
            )
            for row in self._all("events", {"job": job_id})
        ]

    def submission(self, job_id: str) -> tuple[bytes, bytes]:
        """A job's template and inputs, as they were submitted."""
        (row,) = self._all("submission", {"job": job_id})
        return row["template"], row["inputs"]

    def outputs(self, job_id: str) -> bytes | None:
        """A job's outputs; None if it has none, or only in their file."""
        rows = self._all("outputs", {"job": job_id})
        return rows[0]["data"] if rows else None

    def cached(self, key: str) -> Record | None:
        """The newest job of this cache key that succeeded."""
        rows = self._all("cached_job", {"key": key, "phase": Phase.SUCCEEDED.value})
        return _record(rows[0]) if rows else None

    def requests(self) -> list[tuple[int, str, str]]:
        """What was asked of the engine: number, job, kind."""
        return [(row["seq"], row["job"], row["kind"]) for row in self._all("requests", {})]

    def finished_before(self, at: float) -> list[tuple[str, str]]:
        """The ids and folders of jobs that were over by then."""
        return [(row["id"], row["root"]) for row in self._all("finished_before", {"before": at})]

    def folders(self) -> list[str]:
        """The folders of all jobs."""
        return [row["root"] for row in self._all("folders", {})]

    def counts(self) -> dict[Stage, int]:
        """How many jobs are in which stage."""
        return {Stage(row["stage"]): row["jobs"] for row in self._all("count_by_stage", {})}

    def version_of_data(self) -> int:
        """A number that changes when another process has written."""
        with self._errors():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    # -- inside ----------------------------------------------------------------------------------------------------

    def _execute(self, name: str, values: Mapping[str, Any]) -> None:
        self._rows.write(self._connection)
        self._connection.execute(queries()[name], values)  # within a transaction, which tells of errors

    def _all(self, name: str, values: Mapping[str, Any]) -> list[sqlite3.Row]:
        with self._errors():
            if len(self._rows):
                self._rows.write(self._connection)  # it sees all that was written before
            return self._connection.execute(queries()[name], values).fetchall()

    def _prepare(self, scripts: Sequence[str]) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreError(
                f"This Python has SQLite {sqlite3.sqlite_version}, and the store needs "
                f"{'.'.join(map(str, OLDEST_SQLITE))} or newer: use another Python."
            )
        connection = self._connection
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk before it is acknowledged
        if self._version() < len(scripts):
            with self.transaction():
                for number in range(self._version(), len(scripts)):  # read again: another process may have been faster
                    for statement in _statements(scripts[number]):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {number + 1}")
        if self._version() > len(scripts):
            raise StoreError(
                f"{self.path} was written by a newer Airside; update, or set AIRSIDE_STATE to another folder."
            )

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StoreError(explained(exc, self.path)) from exc
        except OSError as exc:
            raise StoreError(
                f"The store {self.path} cannot be made: {exc.strerror or exc}; choose another folder by "
                "AIRSIDE_STATE or --state."
            ) from exc


_EXPLANATIONS = {
    sqlite3.SQLITE_BUSY: "is locked by another process that writes to it; try again, or end that process",
    sqlite3.SQLITE_LOCKED: "is locked by another process that writes to it; try again, or end that process",
    sqlite3.SQLITE_READONLY: "cannot be written: give yourself write access to it and its folder",
    sqlite3.SQLITE_PERM: "cannot be written: give yourself write access to it and its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: is its folder there, and may you write to it?",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full; make room, then start again",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk reports an error",
    sqlite3.SQLITE_CORRUPT: "is damaged: move it away, and a new store begins empty; `sqlite3 .recover` may save it",
    sqlite3.SQLITE_NOTADB: "is no store of Airside's: move it away, and a new store begins empty",
}


def explained(exc: sqlite3.Error, path: str) -> str:
    """What is wrong with the store at `path`, and what to do, in one sentence."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    return f"The store {path} {_EXPLANATIONS.get(code, 'does not work')} ({exc})."


def _statements(script: str) -> Iterator[str]:
    """The statements of a script. `executescript` would commit before it begins."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


_WRITES = ("insert_jobs", "insert_submissions", "update_jobs", "insert_events", "insert_outputs")
"""What is gathered and written in this order: what others refer to comes first."""

_JOB_FIELDS = tuple(field.name for field in fields(Job) if field.name != "rules")


_CHANGING = (
    "created_at", "polls", "fetched", "faults", "faulty_since", "misses", "missing_since", "trouble", "deletes",
    "cancelled_at", "abort",
)  # fmt: skip
_changing = attrgetter(*_CHANGING)


def _row_of(job: Job) -> tuple[Any, ...]:
    """The values of `update_jobs`."""
    links = json.dumps([[link.uri, link.name] for link in job.links]) if job.links else "[]"
    verdict = job.verdict
    told = None if verdict is None else json.dumps([verdict.phase.value, verdict.code, verdict.message, verdict.dead])
    begin = (job.id, job.stage.value, _due(job), job.attempt, job.phase.value, job.message, job.code, links, job.meta)
    return (*begin, *_changing(job), told, job.job_may_live, job.finished_at)


def _due(job: Job) -> float | None:
    return None if job.due == inf else job.due


def _record(row: sqlite3.Row) -> Record:
    known: dict[str, Any] = {name: row[name] for name in _JOB_FIELDS}
    known["stage"], known["phase"] = Stage(row["stage"]), Phase(row["phase"])
    known["due"] = inf if row["due"] is None else row["due"]
    known["links"] = tuple(LogLink(uri, name) for uri, name in json.loads(row["links"]))
    for name in ("fetched", "abort", "job_may_live"):
        known[name] = bool(row[name])
    if row["verdict"] is not None:
        phase, code, message, dead = json.loads(row["verdict"])
        known["verdict"] = Verdict(phase=Phase(phase), code=code, message=message, dead=dead)
    return Record(
        job=Job(**known),
        seq=row["seq"],
        task=row["task"],
        task_type=TaskType(row["task_type"], row["type_version"]),
        root=row["root"],
        source=json.loads(row["source"]),
        attended=bool(row["attended"]),
        cache_key=row["cache_key"],
        reads_cache=bool(row["reads_cache"]),
    )
