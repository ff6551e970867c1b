"""Stores of earlier versions, and disks that are full, read-only or busy: one clear sentence, and nothing lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airside import Engine, Phase, Resource, TaskTemplate, kwtypes
from airside.engine import database as database_module
from airside.engine.database import Database, StoreError, migrations
from airside.engine.engine import prepare
from airside.engine.job import Stage
from airside.sdk.agent import AgentSettings
from airside.testing.scripted import ScriptedAgent

ADD = TaskTemplate(name="add", task_type="scripted", inputs=kwtypes(a=int), outputs=kwtypes(o0=int))
FAST = AgentSettings(poll_interval=0.02)
DONE = Resource(Phase.SUCCEEDED, outputs={"o0": 7})


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path))


# -- earlier versions ------------------------------------------------------------------------------------------------


def old_store(path: Path, version: int) -> dict[str, str]:
    """A store as an engine of that version left it: a job that waits, one that is watched, one that is over."""
    jobs = {}
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for script in migrations()[:version]:
            connection.executescript(script)
        connection.execute(f"PRAGMA user_version = {version}")
        for stage, phase, meta in (("waiting", 1, b""), ("watching", 2, b"job-7"), ("over", 5, b"job-3")):
            made = prepare(ADD, {"a": 1}, state=path.parent)
            job = made.record.job
            connection.execute(
                "INSERT INTO jobs (id, task, task_type, root, stage, due, queued_at, phase, meta, created_at, fetched) "
                "VALUES (?, 'add', 'scripted', ?, ?, ?, ?, ?, ?, ?, 1)",
                (job.id, made.record.root, stage, job.due, job.queued_at, phase, meta, job.queued_at),
            )
            connection.execute("INSERT INTO submissions VALUES (?, ?, ?)", (job.id, made.template, made.inputs))
            jobs[stage] = job.id
    connection.close()
    return jobs


@pytest.mark.parametrize("version", range(1, len(migrations())))
async def test_jobs_of_an_earlier_version_go_on(tmp_path: Path, version: int) -> None:
    store = tmp_path / "engine.db"
    jobs = await asyncio.to_thread(old_store, store, version)
    agent = ScriptedAgent(settings=FAST, create=b"job-1", get=DONE)
    async with asyncio.timeout(30), Engine(store, agents=[agent]) as engine:
        assert engine.unfinished == 2
        for stage in ("waiting", "watching"):
            assert (await engine.wait(jobs[stage])).outputs == {"o0": 7}
        over = await engine.job(jobs["over"])
        assert (over.job.stage, over.job.phase, over.attended, over.cache_key) == (Stage.OVER, Phase.FAILED, False, "")
    assert len(agent.calls("create")) == 1
    assert {one.meta for one in agent.calls("get")} == {b"job-1", b"job-7"}


def test_a_python_with_an_old_sqlite_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 26, 0))
    with pytest.raises(StoreError, match=r"This Python has SQLite .*, and the store needs 3\.33 or newer"):
        Database(tmp_path / "engine.db")


# -- a busy store ----------------------------------------------------------------------------------------------------


async def test_a_store_that_somebody_locks_stops_the_engine_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT", 0.2)
    store = tmp_path / "engine.db"
    agent = ScriptedAgent(settings=FAST, create=b"job-1", get=Resource(Phase.RUNNING))
    async with asyncio.timeout(30):
        async with Engine(store, agents=[agent]) as engine:
            kept = await engine.submit(ADD, {"a": 1})
            other = await asyncio.to_thread(Database, store)
            await asyncio.to_thread(other._connection.execute, "BEGIN IMMEDIATE")
            with pytest.raises(
                StoreError, match=r"engine\.db is locked by another process that writes to it; try again"
            ):
                await engine.submit(ADD, {"a": 2})
            assert isinstance(await engine.failure(), StoreError)
            with pytest.raises(StoreError, match="is locked"):
                await engine.wait(kept)
            await asyncio.to_thread(other.close)
        done = ScriptedAgent(settings=AgentSettings(poll_interval=0.02, create_is_idempotent=True), get=DONE)
        async with Engine(store, agents=[done]) as engine:
            assert (await engine.wait(kept)).phase is Phase.SUCCEEDED
            assert len(await engine.jobs()) == 1


# -- a disk of its own -----------------------------------------------------------------------------------------------

DISK = """
import asyncio, json, subprocess, sys
from pathlib import Path
from airside import Engine, Phase, Resource, TaskTemplate, kwtypes
from airside.engine.database import Database, StoreError
from airside.testing.scripted import ScriptedAgent

disk, airside = Path(sys.argv[1]), sys.argv[2]
mount = lambda *options: subprocess.run(["mount", *options], check=True)
said = {}

def command(*arguments):
    done = subprocess.run([airside, *arguments, "--state", str(disk)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr

async def fill():
    task = TaskTemplate(name="big", task_type="scripted", inputs=kwtypes(a=str))
    kept = []
    async with Engine(disk / "engine.db", agents=[ScriptedAgent(get=Resource(Phase.RUNNING))]) as engine:
        try:
            while True:
                kept.append(await engine.submit(task, {"a": "x" * 4000}))
        except StoreError as exc:
            said["error"] = str(exc)
        said["failure"] = str(await engine.failure())
    return kept

mount("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk))
kept = asyncio.run(fill())
with open(disk / "rest", "wb", buffering=0) as rest:
    try:
        while rest.write(b"x" * 512):
            pass
    except OSError:
        pass
said["full"] = command("engine", "--idle-exit", "1s")
mount("-o", "remount,ro", str(disk))
said["read-only"] = command("engine", "--idle-exit", "1s")
mount("-o", "remount,rw,size=64m", str(disk))
with Database(disk / "engine.db") as database:
    said["lost"] = sorted(set(kept) - {one.job.id for one in database.unfinished()})
    said["check"] = database._connection.execute("PRAGMA integrity_check").fetchone()[0]
said["kept"] = len(kept)
print(json.dumps(said))
"""
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def has_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = ["sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return subprocess.run([*NAMESPACE, *probe], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_namespaces(), reason="this user may not mount a disk of its own")
def test_a_full_and_a_read_only_disk_are_told_and_lose_nothing(tmp_path: Path) -> None:
    airside = str(Path(sys.executable).with_name("airside"))
    (tmp_path / "disk").mkdir()
    child = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", DISK, str(tmp_path / "disk"), airside],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    said: dict[str, Any] = json.loads(child.stdout)
    assert "engine.db cannot grow: the disk is full; make room, then start again" in said["error"]
    assert said["failure"] == said["error"]
    assert said["kept"] > 10
    assert (said["lost"], said["check"]) == ([], "ok")
    for what, sentence in (("full", "; make room, then start again"), ("read-only", "cannot be made: Read-only")):
        code, stderr = said[what]
        assert code == 2, (what, stderr)
        assert sentence in stderr.splitlines()[-1], (what, stderr)
        assert stderr.count("Error: ") == 1
        assert "Traceback" not in stderr
