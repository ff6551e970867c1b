"""The engine is killed at random instants: every job ends as it should, none is made twice, no event is missing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from airside import AsyncAgent, Phase, Resource, Task
from airside.engine.database import Database, Event, Record
from airside.engine.job import Job, Stage
from airside.testing.service import LocalService

JOBS = 200
PROCESS = Path(__file__).with_name("engine_process.py")
LONGEST_LIFE = 0.3


@dataclass
class Made:
    n: int
    attempt: int
    key: str


def failures(n: int) -> int:
    """How many attempts of a job fail before one that does not."""
    return n % 4


def is_hopeless(n: int) -> bool:
    return n % 10 == 9


def is_cancelled(n: int) -> bool:
    return n % 10 == 5


class Counting(AsyncAgent[Made]):
    """A backend that counts what it makes. Its clock is the number of the engine's lives."""

    task_type = "count"

    def __init__(self, lives: int) -> None:
        self.life, self.lives = 0, lives
        self.random = Random(lives)  # noqa: S311 - how long jobs run
        self.creates: Counter[str] = Counter()
        self.made: dict[str, Made] = {}
        self.ends: dict[str, int] = {}
        self.deleted: set[str] = set()

    async def create(self, task: Task) -> Made:
        self.creates[task.key] += 1
        await asyncio.sleep(self.random.uniform(0.0, 0.05))
        made = Made(task.inputs["n"], task.execution.attempt, task.key)
        longest = self.lives if is_cancelled(made.n) else self.lives // (failures(made.n) + 1)
        shortest = longest if made.n % 8 == 0 else longest // 4  # there is work for every life
        self.ends[task.key] = self.life + self.random.randint(shortest, longest)
        return self.made.setdefault(task.key, made)

    def find(self, task: Task, key: str) -> Made | None:
        return self.made.get(key)

    def get(self, job: Made) -> Resource:
        if job.key in self.deleted:
            return Resource(Phase.ABORTED)
        if is_cancelled(job.n) or self.life < min(self.ends[job.key], self.lives):
            return Resource(Phase.RUNNING, message=f"in life {self.life}")
        if is_hopeless(job.n):
            return Resource(Phase.FAILED, code="Hopeless", message="as told")
        if job.attempt < failures(job.n):
            return Resource(Phase.RETRYABLE_FAILED, code="Unlucky", message="as told")
        return Resource(Phase.SUCCEEDED, outputs={"n": job.n})

    def delete(self, job: Made) -> None:
        self.deleted.add(job.key)


class Engines:
    """One engine after the other on one store. `acknowledged`: the jobs that it said it had taken in."""

    def __init__(self, process: asyncio.subprocess.Process, line: str) -> None:
        self._process, self._line = process, line
        self.acknowledged: list[str] = []
        self.readied = 0

    async def start(self) -> int:
        """Start an engine and return its process id."""
        assert self._process.stdin
        self._process.stdin.write(self._line.encode())
        word, pid = await self._read()
        assert word == "pid"
        return int(pid)

    async def gone(self) -> None:
        """Read what the engine said until it was gone."""
        while (said := await self._read())[0] != "gone":
            assert said[0] != "failed", "the engine failed; see its traceback"
            self.readied += said[0] == "ready"
            if said[0] == "job":
                self.acknowledged.append(said[1])

    async def _read(self) -> list[str]:
        assert self._process.stdout
        line = await self._process.stdout.readline()
        assert line, "the process of the engines ended"
        return line.decode().split()


@asynccontextmanager
async def engines(store: Path, address: str) -> AsyncIterator[Engines]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROCESS),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "AIRSIDE_STATE": str(store.parent)},
        start_new_session=True,
    )
    try:
        yield Engines(process, f"{store} {address} {JOBS}\n")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and an engine that is left
        await process.wait()


@pytest.mark.parametrize("kills", [25, pytest.param(500, marks=pytest.mark.faults)])
async def test_sigkill_at_random_instants(
    tmp_path: Path, start_service: Callable[..., Awaitable[LocalService]], kills: int
) -> None:
    backend = Counting(kills)
    service = await start_service(backend)
    store = tmp_path / "engine.db"
    random = Random(kills)  # noqa: S311 - the instants of the kills
    began = time.monotonic()
    async with asyncio.timeout(1500), engines(store, service.address) as running:
        for life in range(kills):
            backend.life = life
            pid = await running.start()
            lived = random.uniform(0.0, LONGEST_LIFE)  # from before it has opened its store
            await asyncio.sleep(lived / 2)
            if life % 5 == 4 and life > kills // 2:
                await asyncio.to_thread(ask_for_cancels, store)
            await asyncio.sleep(lived / 2)
            os.kill(pid, signal.SIGKILL)
            await running.gone()
        killed = time.monotonic() - began
        backend.life = kills
        await running.start()
        await asyncio.to_thread(ask_for_cancels, store, wait=True)
        await running.gone()
    records, events = await asyncio.to_thread(everything, store)
    assert set(running.acknowledged) <= {record.job.id for record in records}
    attempts = check(records, events)
    assert set(backend.creates.values()) == {1}, "a job was made twice"
    assert len(backend.creates) == attempts
    assert running.readied > kills / 10
    print(
        f"\n{kills} kills in {killed:.0f} s ({running.readied} engines had resumed their jobs), {JOBS} jobs, "
        f"{len(backend.creates)} attempts, each made once; {len(backend.deleted)} deleted; "
        f"{sum(map(len, events.values()))} events, none missing"
    )


def ask_for_cancels(store: Path, *, wait: bool = False) -> None:
    """Ask the engine to cancel every job that is to be cancelled, as `airside jobs cancel` does."""
    with Database(store) as database:
        while wait and len(database.latest(limit=JOBS)) < JOBS:
            time.sleep(0.02)
        for record in database.latest(limit=JOBS, unfinished=True):
            if is_cancelled(record.seq - 1):
                with database.transaction():
                    database.ask(record.job.id, "cancel", time.time())


def everything(store: Path) -> tuple[list[Record], dict[str, list[Event]]]:
    with Database(store) as database:
        records = list(reversed(database.latest(limit=2 * JOBS)))
        return records, {record.job.id: database.events(record.job.id) for record in records}


def check(records: list[Record], events: dict[str, list[Event]]) -> int:
    """Every job ended as it should; returns how many attempts were begun."""
    assert len(records) == JOBS
    begun = 0
    for n, record in enumerate(records):
        job = record.job
        assert job.stage is Stage.OVER
        assert not job.job_may_live
        if is_hopeless(n):
            assert (job.phase, job.code, job.attempt) == (Phase.FAILED, "Hopeless", 0)
        elif is_cancelled(n):
            assert (job.phase, job.abort) == (Phase.ABORTED, True), told(job, events[job.id])
        else:
            assert (job.phase, job.attempt) == (Phase.SUCCEEDED, failures(n)), told(job, events[job.id])
        follow(events[job.id])
        begun += len({event.attempt for event in events[job.id] if event.stage in (Stage.WATCHING, Stage.CANCELLING)})
    return begun


def told(job: Job, events: list[Event]) -> str:
    """A job and its history for whoever looks why the proof failed."""
    return "\n".join(map(str, (job, *events)))


def follow(events: list[Event]) -> None:
    """Every stage that a job went through is there, in order."""
    stages = [(event.attempt, event.stage) for event in events]
    assert stages[0] == (0, Stage.WAITING)
    assert stages[-1][1] is Stage.OVER
    for (attempt, stage), (later, following) in pairwise(stages):
        if (attempt, stage) == (later, following):
            continue
        assert following in FOLLOWS[stage], events
        assert later == attempt + (following is Stage.WAITING)
    assert all(later.at >= earlier.at for earlier, later in pairwise(events)), events


FOLLOWS = {
    Stage.WAITING: {Stage.CREATING, Stage.OVER},
    Stage.CREATING: {Stage.WATCHING, Stage.CANCELLING, Stage.OVER},
    Stage.WATCHING: {Stage.CANCELLING, Stage.OVER},
    Stage.CANCELLING: {Stage.WAITING, Stage.CONFIRMING},
    Stage.CONFIRMING: {Stage.OVER},
    Stage.OVER: set(),
}
