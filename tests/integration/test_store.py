"""The store on a real disk: what is acknowledged is kept, whatever happens to the process, the file or the disk."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from airside import Engine, LogLink, Phase, TaskTemplate, TaskType, UsageError, kwtypes
from airside.engine import database as database_module
from airside.engine.database import MEMORY, Database, Event, Record, StoreError, migrations
from airside.engine.engine import prepare
from airside.engine.job import Job, Stage, Verdict
from airside.engine.ownership import Ownership, owner_of
from airside.engine.store import Store

JOB = Job(id="00ff", queued_at=100.0, due=100.0, retries=2, timeout=5.0, active_timeout=10.0)
FULL = replace(
    JOB,
    stage=Stage.CANCELLING,
    attempt=1,
    phase=Phase.RUNNING,
    message="3 of 7",
    code="X",
    links=(LogLink("https://example.org", "console"),),
    meta=b"\x00\xffjob",
    created_at=101.0,
    polls=7,
    fetched=True,
    faults=2,
    faulty_since=102.0,
    misses=1,
    missing_since=103.0,
    trouble="busy",
    deletes=3,
    cancelled_at=104.0,
    abort=True,
    verdict=Verdict(phase=Phase.RETRYABLE_FAILED, code="TimeoutExpired", message="slow", dead=True),
    job_may_live=True,
    finished_at=105.0,
)


def record(job: Job = JOB, **more: object) -> Record:
    known = {"task": "add", "task_type": TaskType("adder", 1), "root": f"/runs/{job.id}", "source": {"modules": ["m"]}}
    return Record(job=job, **{**known, **more})  # type: ignore[arg-type]  # fields by name


def event(job: Job, note: str = "") -> Event:
    return Event(job=job.id, at=1.0, attempt=job.attempt, stage=job.stage, phase=job.phase, note=note)


async def test_a_commit_is_asked_to_be_on_the_disk(tmp_path: Path) -> None:
    """What no kill of a process shows: that a power failure takes nothing that was acknowledged."""
    store = Store(tmp_path / "engine.db")
    await store.open()
    try:
        kept = [
            await store.read(lambda database: database._connection.execute(f"PRAGMA {name}").fetchone()[0])  # noqa: B023
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    finally:
        await store.close()
    assert kept == ["wal", 2, 1]  # 2 is FULL


def filled(path: Path, *ids: str) -> Database:
    database = Database(path)
    with database.transaction():
        for one in ids:
            database.add(record(replace(JOB, id=one)), b"template", b"inputs")
    return database


async def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "engine.db")
    await store.open()
    await store.add(record(), b"template", b"inputs")
    assert await store.read(lambda db: db.unfinished()) == [record(seq=1)]
    await store.save(replace(FULL, due=float("inf")), event(FULL, "note"))
    await store.close()
    again = Store(tmp_path / "engine.db")
    await again.open()
    assert await again.read(lambda db: db.find("00ff")) == record(replace(FULL, due=float("inf")), seq=1)
    assert await again.read(lambda db: db.submission("00ff")) == (b"template", b"inputs")
    assert [one.note for one in await again.read(lambda db: db.events("00ff"))] == ["submitted", "note"]
    assert await again.read(lambda db: db.counts()) == {Stage.CANCELLING: 1}
    await again.close()


async def test_writes_of_one_turn_share_a_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = 0
    transaction = Database.transaction

    def counted(self: Database):  # type: ignore[no-untyped-def]  # as the original returns
        nonlocal begun
        begun += 1
        return transaction(self)

    store = Store(tmp_path / "engine.db")
    await store.open()
    monkeypatch.setattr(Database, "transaction", counted)
    await asyncio.gather(*[store.add(record(replace(JOB, id=f"{n:04x}")), b"", b"") for n in range(500)])
    assert begun == 1
    assert len(await store.read(lambda db: db.unfinished())) == 500
    await store.close()


async def test_a_question_without_an_answer_harms_no_write() -> None:
    store = Store(MEMORY)
    await store.open()
    written = store.add(record(), b"", b"")
    with pytest.raises(UsageError, match="There is no job 'nope'"):
        await store.read(lambda db: db.find("nope"))
    await written
    assert (await store.read(lambda db: db.find("00"))).task == "add"
    await store.close()


def test_ids_may_be_shortened(tmp_path: Path) -> None:
    with filled(tmp_path / "engine.db", "abc1", "abd2") as database:
        assert database.find("abc").job.id == "abc1"
        with pytest.raises(UsageError, match="'ab' may be abc1 or abd2"):
            database.find("ab")
        with pytest.raises(UsageError, match="There is no job 'ab%'"):
            database.find("ab%")


def test_lists_are_filtered(tmp_path: Path) -> None:
    with filled(tmp_path / "engine.db", "a1", "a2", "a3") as database:
        with database.transaction():
            database.save(replace(JOB, id="a2", stage=Stage.OVER, phase=Phase.FAILED, finished_at=50.0))
        assert [one.job.id for one in database.latest()] == ["a3", "a2", "a1"]
        assert [one.job.id for one in database.latest(limit=1)] == ["a3"]
        assert [one.job.id for one in database.latest(phase=Phase.FAILED)] == ["a2"]
        assert [one.job.id for one in database.latest(unfinished=True)] == ["a3", "a1"]
        assert [one.job.id for one in database.unfinished(after=1)] == ["a3"]
        assert len(database.latest(task="adder")) == len(database.latest(task="add")) == 3
        assert database.latest(task="other") == []
        assert database.finished_before(51.0) == [("a2", "/runs/a2")]
        assert database.finished_before(50.0) == []


def test_a_finished_job_is_forgotten_with_its_history(tmp_path: Path) -> None:
    with filled(tmp_path / "engine.db", "a1", "a2") as database:
        with database.transaction():
            database.save(replace(JOB, id="a1", stage=Stage.OVER, phase=Phase.FAILED))
            database.forget("a1")
            database.forget("a2")  # not over: stays
        assert [one.job.id for one in database.latest()] == ["a2"]
        assert database.events("a1") == []


def test_requests_cross_processes(tmp_path: Path) -> None:
    with filled(tmp_path / "engine.db", "a1") as database, Database(tmp_path / "engine.db") as other:
        before = database.version_of_data()
        with other.transaction():
            other.ask("a1", "cancel", 1.0)
        assert database.version_of_data() != before
        assert database.requests() == [(1, "a1", "cancel")]
        with database.transaction():
            database.answered(1)
        assert other.requests() == []


# -- the file and the disk -------------------------------------------------------------------------------------------


def test_an_older_store_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    filled(path, "a1").close()
    newer = (*migrations(), "ALTER TABLE jobs ADD COLUMN extra TEXT;\nCREATE INDEX by_extra ON jobs (extra);")
    with Database(path, scripts=newer) as database:
        assert database.find("a1").task == "add"
    with pytest.raises(StoreError, match="written by a newer Airside; update"):
        Database(path)


def of_version_1(path: Path) -> str:
    """A store as version 1 made it, with a job that waits; its id."""
    Database(path, scripts=migrations()[:1]).close()
    hello = TaskTemplate(name="hello", task_type="echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int))
    made = prepare(hello, {"x": 3}, state=path.parent)
    job = made.record.job
    columns = "id, task, task_type, root, stage, due, queued_at, phase"
    values = (job.id, "hello", "echo", made.record.root, job.stage.value, job.due, job.queued_at, job.phase.value)
    with closing(sqlite3.connect(path)) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (1,)
        old.execute(f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608 - our own
        old.execute("INSERT INTO submissions VALUES (?, ?, ?)", (job.id, made.template, made.inputs))
        old.commit()
    return job.id


async def test_the_jobs_of_version_1_go_on(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    job = await asyncio.to_thread(of_version_1, path)
    async with asyncio.timeout(20), Engine(path) as engine:
        assert (await engine.wait(job)).outputs == {"x": 3}
        record = await engine.job(job)
    assert (record.attended, record.cache_key, record.reads_cache) == (False, "", True)


def test_jobs_are_marked_for_their_commands_and_for_the_cache(tmp_path: Path) -> None:
    done = replace(JOB, stage=Stage.OVER, phase=Phase.SUCCEEDED)
    with Database(tmp_path / "engine.db") as database, database.transaction():
        for number, (key, phase) in enumerate([("k", 3), ("k", 5), ("l", 3), ("", 3)]):
            job = replace(done, id=f"a{number}", phase=Phase(phase))
            database.add(record(job, cache_key=key, attended=True, reads_cache=False), b"t", b"i")
            database.save(job)
        found = database.cached("k")
        assert found is not None
        assert (found.job.id, found.attended, found.reads_cache) == ("a0", True, False)
        assert database.cached("") is None
        assert database.cached("none") is None
        assert len(database.folders()) == 4


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    filled(path, "a1").close()
    with pytest.raises(StoreError, match="does not work"):
        Database(path, scripts=(*migrations(), "CREATE TABLE more (x);\nCREATE TABLE jobs (x);"))
    with Database(path) as database:
        assert database.find("a1").job == replace(JOB, id="a1")


def test_a_locked_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT", 0.05)
    with filled(tmp_path / "engine.db") as writer, Database(tmp_path / "engine.db") as other:
        with writer.transaction(), pytest.raises(StoreError, match="is locked by another process"), other.transaction():
            raise AssertionError("two writers at once")
        with other.transaction():
            other.add(record(), b"", b"")


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    path.write_bytes(b"this is no database at all, not even nearly" * 100)
    with pytest.raises(StoreError, match=r"engine\.db is no store of Airside's: move it away"):
        Database(path)
    path.unlink()
    filled(path, *(f"{n:04x}" for n in range(200))).close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with Database(path) as database, pytest.raises(StoreError, match="is damaged: move it away"):
        database.latest()


def test_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be made: .*; choose another folder by AIRSIDE_STATE or"):
        Database(tmp_path / "file" / "engine.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StoreError, match="is a folder, and must be a file"):
        Database(tmp_path / "folder.db")


async def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "engine.db"
    prepare = Database._prepare

    def small(self: Database, scripts: Sequence[str]) -> None:
        prepare(self, scripts)
        self._connection.execute("PRAGMA max_page_count = 40")

    with monkeypatch.context() as patched:
        patched.setattr(Database, "_prepare", small)
        store = Store(path)
        await store.open()
    kept: list[str] = []

    async def fill() -> None:
        for number in range(1000):
            job = replace(JOB, id=f"{number:04x}")
            await store.add(record(job), b"t" * 1000, b"i" * 1000)
            kept.append(job.id)

    with pytest.raises(StoreError, match="the disk is full; make room"):
        await fill()
    with pytest.raises(StoreError, match="the disk is full"):
        await store.add(record(replace(JOB, id="ffff")), b"", b"")
    await store.close()
    again = Store(path)
    await again.open()
    assert kept
    assert [one.job.id for one in await again.read(lambda db: db.unfinished())] == kept
    await again.close()


WRITER = """
import asyncio, sys
from dataclasses import replace
from airside import TaskType
from airside.engine.database import Event, Record
from airside.engine.job import Job, Stage
from airside.engine.store import Store

async def main():
    store = Store(sys.argv[1])
    await store.open()
    async def one(id):
        job = Job(id=id, queued_at=1.0)
        await store.add(Record(job=job, task="t", task_type=TaskType("x"), root="/r", source={}), b"t", b"i")
        print("added", id, flush=True)
        job = replace(job, stage=Stage.CREATING, attempt=1)
        await store.save(job, Event(job=id, at=2.0, attempt=1, stage=job.stage, phase=job.phase, note="begun"))
        print("saved", id, flush=True)
    start = int(sys.argv[2])
    for base in range(start, start + 100_000, 8):
        await asyncio.gather(*(one(f"{n:08x}") for n in range(base, base + 8)))

asyncio.run(main())
"""


def test_sigkill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    random = Random(7)  # noqa: S311 - the moments of the kills
    said: list[tuple[str, str]] = []
    for round_ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(round_ * 1_000_000)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout
        for _ in range(random.randrange(1, 400)):
            what, one = child.stdout.readline().split()
            said.append((what, one))
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
        child.wait()
        child.stdout.close()
        said += [(line.split()[0], line.split()[1]) for line in rest.splitlines() if len(line.split()) == 2]
    with Database(path) as database:
        known = {one.job.id: one.job for one in database.unfinished()}
        for what, one in said:
            if len(one) != 8:
                continue  # cut short by the kill
            assert one in known
            assert database.submission(one) == (b"t", b"i")
            if what == "saved":
                assert known[one].attempt == 1
                assert [event.note for event in database.events(one)] == ["submitted", "begun"]
        for job in known.values():  # a job and its event are kept together, or neither is
            assert len(database.events(job.id)) == 1 + job.attempt
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


# -- one owner -------------------------------------------------------------------------------------------------------


def test_a_store_has_one_owner_who_is_named(tmp_path: Path) -> None:
    store = str(tmp_path / "engine.db")
    assert owner_of(store) is None
    with Ownership(store):
        found = owner_of(store)
        assert found is not None
        assert found["pid"] == os.getpid()
        with pytest.raises(
            StoreError, match=f"Another engine drives the jobs of this store: process {os.getpid()} on "
        ):
            Ownership(store).take()
    assert owner_of(store) is None
    with Ownership(store):
        pass


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    store = str(tmp_path / "engine.db")
    text = (
        "import time; from airside.engine.ownership import Ownership\n"
        f"with Ownership({store!r}): print(flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    assert owner_of(store) is not None
    child.kill()
    child.wait()
    child.stdout.close()
    with Ownership(store):
        pass
