"""The engine is killed at random instants: every job ends as it should, none is made twice, no event is missing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

from airside import AsyncAgent, Phase, Resource, Task
from airside.engine.database import Database, Event
from airside.engine.job import Stage
from airside.testing.service import LocalService

JOBS = 120
KILLS = int(os.environ.get("TEST_KILLS", "6"))

CHILD = f"""
import asyncio, sys
from airside import Engine, TaskTemplate, kwtypes

TASK = TaskTemplate(name="count", task_type="count", inputs=kwtypes(n=int), outputs=kwtypes(n=int), retries=1)

async def main(store, endpoint):
    async with Engine(store, endpoint=endpoint) as engine:
        print("ready", flush=True)
        have = len(await engine.jobs(limit={JOBS}))
        for n in range(have, {JOBS}):
            await engine.submit(TASK, {{"n": n}})
        while engine.unfinished:
            await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""


@dataclass
class Made:
    key: str
    n: int
    born: float


class Counting(AsyncAgent[Made]):
    """A backend that counts what it makes. Every third job fails at its first attempt, every tenth for good."""

    task_type = "count"

    def __init__(self) -> None:
        self.creates: Counter[str] = Counter()
        self.made: dict[str, Made] = {}

    async def create(self, task: Task) -> Made:
        self.creates[task.key] += 1
        await asyncio.sleep(0.01)
        made = Made(task.key, task.inputs["n"] + 1000 * task.execution.attempt, time.time())
        return self.made.setdefault(task.key, made)

    def find(self, task: Task, key: str) -> Made | None:
        return self.made.get(key)

    def get(self, job: Made) -> Resource:
        attempt, n = divmod(job.n, 1000)
        if time.time() - job.born < 0.2 + (n % 7) / 10:
            return Resource(Phase.RUNNING, message=f"{n} runs")
        if n % 10 == 9:
            return Resource(Phase.FAILED, code="Tenth", message="as told")
        if n % 3 == 0 and attempt == 0:
            return Resource(Phase.RETRYABLE_FAILED, code="Third", message="as told")
        return Resource(Phase.SUCCEEDED, outputs={"n": n})

    def delete(self, job: Made) -> None:
        return


async def test_sigkill_at_random_instants(
    tmp_path: Path, start_service: Callable[..., Awaitable[LocalService]]
) -> None:
    backend = Counting()
    service = await start_service(backend)
    store = tmp_path / "engine.db"
    random = Random(KILLS)  # noqa: S311 - the instants of the kills
    for _ in range(KILLS):
        child = await asyncio.to_thread(start, store, service.address)
        await asyncio.sleep(random.uniform(0.0, 0.25))
        child.send_signal(signal.SIGKILL)
        await asyncio.to_thread(child.communicate)
    child = await asyncio.to_thread(start, store, service.address)
    assert await asyncio.to_thread(child.wait, 60) == 0
    await asyncio.to_thread(child.communicate)
    attempts = await asyncio.to_thread(check, store)
    assert set(backend.creates.values()) == {1}, "a job was made twice"
    assert len(backend.creates) == attempts


def start(store: Path, address: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(store), address]
    environment = {**os.environ, "AIRSIDE_STATE": str(store.parent)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    return child


def check(store: Path) -> int:
    with Database(store) as database:
        records = database.latest(limit=JOBS * 2)
        assert len(records) == JOBS
        for number, record in enumerate(reversed(records)):
            job = record.job
            assert job.stage is Stage.OVER
            if number % 10 == 9:  # at once, also if its number is a multiple of three
                assert (job.phase, job.code) == (Phase.FAILED, "Tenth")
            else:
                assert job.phase is Phase.SUCCEEDED, job
                assert job.attempt == (1 if number % 3 == 0 else 0)
            follow(database.events(job.id))
        return sum(record.job.attempt + 1 for record in records)


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


FOLLOWS = {
    Stage.WAITING: {Stage.CREATING},
    Stage.CREATING: {Stage.WATCHING},
    Stage.WATCHING: {Stage.CANCELLING, Stage.OVER},
    Stage.CANCELLING: {Stage.WAITING},
    Stage.OVER: set(),
}
